"""A real server process for a benchmark, on a free loopback port, and its memory use."""

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
    """A running server: its process id and URL."""

    pid: int
    url: str


@contextmanager
def serving(data: Path, settings: Mapping[str, Setting], *arguments: str) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        data: An existing folder for the server's data and log.
        settings: The settings by name, such as `threads`.
        arguments: Arguments of `acclimate serve` in addition to the port.

    Raises:
        RuntimeError: If the server does not start. The message ends with its log.
    """
    variables = {
        f"ACCLIMATE_{name.upper()}": _text_of(value) for name, value in {**settings, "data": str(data)}.items()
    }
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *arguments]
    log = data / "server.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            line = next((printed for printed in process.stdout or () if ANNOUNCED in printed), None)
            if line is None:
                raise RuntimeError(f"the server did not start: {log.read_text()[-1000:]}")
            yield Server(process.pid, line.split(ANNOUNCED)[1].strip())
        finally:
            process.send_signal(signal.SIGTERM)


def rss_of(pid: int) -> int:
    """Return a process's current memory in bytes."""
    return _memory(pid, "VmRSS")


def most_rss_of(pid: int) -> int:
    """Return the peak of a process's memory in bytes."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _text_of(value: Setting) -> str:
    """Return a setting as the value of an environment variable."""
    return str(value) if isinstance(value, str | int) else json.dumps(list(value))
