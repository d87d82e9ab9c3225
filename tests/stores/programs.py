"""Programs that the stores' tests run beside the server: found, started on free ports of loopback, stopped by id."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stored import PATIENCE

BESIDE_PYTHON = Path(sys.executable).parent


def program(name: str, package: str, *folders: Path) -> Path:
    """Return a program's path; without it the test is skipped, but on CI it fails."""
    path = shutil.which(name, path=os.pathsep.join(map(str, (*folders, BESIDE_PYTHON, os.environ.get("PATH", "")))))
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed here, but CI must run these tests: {package}")
    if path is None:
        pytest.skip(f"{name} is not installed: {package}")
    return Path(path)


def free_ports(count: int) -> list[int]:
    """Return different ports of loopback that nothing listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def wait_until(holds: Callable[[], object], what: str, seconds: float = 2 * PATIENCE, every: float = 0.02) -> None:
    """Wait for a condition; what did not come to be in time is a failure."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(every)


def wait_ready(
    process: subprocess.Popen, ready: Callable[[], object], log: Path, seconds: float = 2 * PATIENCE
) -> None:
    """Wait until a program answers; one that ended instead is a failure that shows what it said."""

    def answers_or_ended() -> bool:
        return process.poll() is not None or bool(ready())

    wait_until(answers_or_ended, f"{process.args} answers:\n{log.read_text()[-4000:]}", seconds, every=0.1)
    assert process.poll() is None, f"{process.args} ended with {process.returncode}:\n{log.read_text()[-4000:]}"
