"""A real server process on a store: killed and started again, its logs kept, as often as a test wants."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.serving import Server, serving
from tests.stores.places import Store
from tests.stores.programs import wait_until


class Serving:
    """One server, over its starts: each has its own folder for the log, all have one store."""

    def __init__(self, folder: Path, store: Store, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._store = store
        self._settings = dict(settings)
        self._running = ExitStack()
        self._server: Server | None = None
        self.starts = 0

    @property
    def server(self) -> Server:
        """The process as it runs."""
        assert self._server is not None, "the server is not started"
        return self._server

    @property
    def url(self) -> str:
        """Where it listens; another port after each start."""
        return self.server.url

    @property
    def environment(self) -> dict[str, str]:
        """What names its store and holds its settings."""
        return {**self._store.environment, **self._settings}

    def client(self, **settings: Any) -> httpx.Client:
        """Return a client of the process as it runs."""
        return self.server.client(**settings)

    def start(self) -> None:
        """Start a process on the store and wait until it is ready."""
        self.starts += 1
        folder = self._folder / f"start-{self.starts}"
        folder.mkdir()
        server = serving(folder, environment=self.environment, data=self._store.data)
        self._server = self._running.enter_context(server)
        with self.client() as client:
            wait_until(lambda: self._ready(client), f"ready:\n{self.log()}")

    def kill(self) -> None:
        """End the process at once, by SIGKILL: it can keep nothing more."""
        self.server.process.kill()
        self.server.process.wait(timeout=30)
        self._running.close()
        self._server = None

    def stop(self) -> None:
        """Stop the process in order, and let it keep what it wants."""
        self._running.close()
        self._server = None

    def restart_killed(self) -> None:
        """Kill the process and start it again."""
        self.kill()
        self.start()

    def log(self) -> str:
        """Return what all processes so far have logged."""
        logs = sorted(self._folder.glob("start-*/server.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(f"--- {path.parent.name}\n{path.read_text()[-8000:]}" for path in logs[-2:])

    def _ready(self, client: httpx.Client) -> bool:
        assert self.server.process.poll() is None, f"the server ended:\n{self.log()}"
        try:
            return client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def started(folder: Path, store: Store, **settings: str) -> Iterator[Serving]:
    """Run a server on a store until the block ends; settings are named as the environment variables are."""
    folder.mkdir(parents=True, exist_ok=True)
    serving_it = Serving(folder, store, settings)
    try:
        serving_it.start()
        yield serving_it
    finally:
        serving_it.stop()
