"""Prometheus and promtool for the tests: real programs, on a free port of loopback, stopped at the end."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

START_LINES = 200


def program(name: str) -> str:
    """Return a program's path; without it the test is skipped, but on CI it fails."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed here, but CI must run these tests: apt-get install prometheus")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return path


def promtool(*arguments: str | Path, given: str | None = None) -> None:
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@dataclass
class Prometheus:
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """Return an expression's values; those that are no number are left out."""
        found = [float(sample["value"][1]) for sample in self.ask("query", query=expression)["result"]]
        return [value for value in found if value == value]


@contextmanager
def running(config: Path, data: Path) -> Iterator[Prometheus]:
    """Run a Prometheus until the block ends."""
    log = data.with_suffix(".log")
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={data}"]
    command += ["--web.listen-address=127.0.0.1:0", "--storage.tsdb.retention.time=1h", "--log.level=info"]
    environment = {**os.environ, "GOMAXPROCS": "1"}
    with log.open("w") as kept, subprocess.Popen(
        command, cwd=data.parent, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:  # fmt: skip
        try:
            yield Prometheus(_address(process.stderr, kept))
        finally:
            process.terminate()
            kept.write(process.communicate(timeout=60)[1])


def _address(lines: Any, kept: Any) -> str:
    read = []
    for line, _ in zip(lines, range(START_LINES), strict=False):
        read.append(line)
        kept.write(line)
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', line)
        if found:
            return f"http://{found[1]}"
    raise AssertionError("Prometheus did not start:\n" + "".join(read))
