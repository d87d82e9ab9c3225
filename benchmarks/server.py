"""A real server process for a benchmark: on a free port of loopback, ended with the block; and the memory it takes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Setting: TypeAlias = str | int | Sequence[str]
ANNOUNCED = "listens on "


@dataclass(frozen=True)
class Server:
    """A server that runs: its process id and URL."""

    pid: int
    url: str


@contextmanager
def serving(data: Path, settings: Mapping[str, Setting], *arguments: str) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        data: Folder for what it keeps, and its log; it must be there.
        settings: By name, as `threads`.
        arguments: Of `acclimate serve`, beside the port.

    Raises:
        RuntimeError: If it does not start; the message ends with what it said.
    """
    given = {f"ACCLIMATE_{name.upper()}": _told(value) for name, value in {**settings, "data": str(data)}.items()}
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *arguments]
    log = data / "server.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            line = next((said for said in process.stdout or () if ANNOUNCED in said), None)
            if line is None:
                raise RuntimeError(f"the server did not start: {log.read_text()[-1000:]}")
            yield Server(process.pid, line.split(ANNOUNCED)[1].strip())
        finally:
            process.send_signal(signal.SIGTERM)


def rss_of(pid: int) -> int:
    """Return the bytes that a process takes in memory now."""
    return _memory(pid, "VmRSS")


def most_rss_of(pid: int) -> int:
    """Return the most bytes that a process has taken in memory so far."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _told(value: Setting) -> str:
    """Return a setting as an environment variable holds it."""
    return str(value) if isinstance(value, str | int) else json.dumps(list(value))
