"""A PostgreSQL cluster of the tests' own: real, durable (fsync on), on loopback, stopped and started at will."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.stores.programs import free_ports, program, wait_ready

DEBIAN = Path("/usr/lib/postgresql")
OWNER = "acclimate"
UNPRIVILEGED = "postgres"


class Postgres:
    """One cluster in a folder; it keeps its port over a stop and a start."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._data = folder / "cluster"
        self._log = folder / "postgres.log"
        (self._port,) = free_ports(1)
        self._databases = 0
        self._process: subprocess.Popen | None = None

    def create_cluster(self) -> None:
        """Make the files of an empty cluster."""
        command = [self._binaries / "initdb", "-D", self._data, "-U", OWNER, "-A", "trust", "-E", "UTF8"]
        command += ["--locale=C", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, timeout=120, **_not_root(self._data.parent))

    def start(self) -> None:
        """Start the cluster and wait until it takes connections."""
        settings = {
            "port": self._port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
            "fsync": "on", "max_connections": 50, "log_min_messages": "warning",
        }  # fmt: skip
        command = [self._binaries / "postgres", "-D", self._data]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_not_root(self._data.parent))
        wait_ready(self._process, self._answers, self._log)

    def stop(self) -> None:
        """End all connections at once, as a crash does; what was committed is kept."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=60)
        self._process = None

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Stop all processes where they are while the block runs: connections stay open, and nothing is answered."""
        assert self._process is not None, "the cluster is not started"
        main = self._process.pid
        os.kill(main, signal.SIGSTOP)  # first, so that it starts no other
        children = _children(main)
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in (*children, main):
                os.kill(pid, signal.SIGCONT)

    def clients(self) -> int:
        """Return how many connections there are, but for this one."""
        with self._connect("postgres") as connection:
            others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
            (count,) = connection.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {others}").fetchone()
        return count

    @property
    def runs(self) -> bool:
        """Whether the cluster was started and not stopped."""
        return self._process is not None

    def new_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        self._databases += 1
        name = f"store_{self._databases}"
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{OWNER}@127.0.0.1:{self._port}/{name}"

    def _connect(self, database: str) -> psycopg.Connection:
        address = {"host": "127.0.0.1", "port": self._port, "user": OWNER, "dbname": database}
        return psycopg.connect(**address, autocommit=True, connect_timeout=10)

    def _answers(self) -> bool:
        try:
            with self._connect("postgres"):
                return True
        except psycopg.OperationalError:
            return False


@contextmanager
def running() -> Iterator[Postgres]:
    """Run a cluster until the block ends."""
    versions = sorted(DEBIAN.glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    binaries = program("initdb", "apt-get install postgresql", *versions).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="acclimate-postgres-"))  # pytest's own folders are closed to other users
    try:
        if os.getuid() == 0:
            shutil.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
        cluster = Postgres(binaries, folder)
        cluster.create_cluster()
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


def _children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parent_of_it = int(stat.read_text().rpartition(")")[2].split()[1])
            found += [int(stat.parent.name)] if parent_of_it == parent else []
    return found


def _not_root(folder: Path) -> dict[str, Any]:
    """Return the settings of a process that runs as PostgreSQL demands: not as root."""
    user = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []} if os.getuid() == 0 else {}
    return {"cwd": folder, "stdin": subprocess.DEVNULL, **user}
