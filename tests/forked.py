"""Servers as processes of their own, forked from one that has imported all they need: tests do not wait for imports.

A forked process runs `acclimate` as any other does, with its own environment, folder, output and signals.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.forked_imports"])


class Forked:
    """A forked process, as `subprocess.Popen` shows one.

    Args:
        arguments: Of `acclimate`.
        environment: All of its environment.
        folder: Its working folder.
        output: The file that its standard output goes to.
        errors: The file that its standard error goes to.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path, output: Path, errors: Path):
        self._process = CONTEXT.Process(
            target=_run, args=(arguments, environment, str(folder), str(output), str(errors))
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended.

        Raises:
            TimeoutExpired: If it runs for longer.
        """
        if not wait([self._process.sentinel], timeout):
            raise subprocess.TimeoutExpired("acclimate", timeout)
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], environment: dict[str, str], folder: str, output: str, errors: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, place in ((0, os.devnull), (1, output), (2, errors)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(place, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["acclimate", *arguments]
    from service.cli.main import main

    main()
