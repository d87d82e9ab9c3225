"""Real server processes for the tests: started on a free port of loopback, stopped by SIGTERM."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from tests.forked import Forked

ROOT = Path(__file__).parent.parent
FACTORY = "tests.models:untrained_reference_network"
SLACK_SECONDS = 20.0
"""Seconds that a slow and busy machine may add to a time limit."""


@dataclass
class Server:
    process: subprocess.Popen | Forked
    url: str
    log: Path
    first_lines: list[str]

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **settings)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def called(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an `acclimate` command to its end in a forked process, with more environment variables."""
    with TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        process = Forked(list(arguments), {**os.environ, **variables}, ROOT, output, errors)
        status = process.wait(timeout=120)
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


@contextmanager
def serving(
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    data: Path | None = None,
    python: tuple[str, ...] = (),
):
    """Run `acclimate serve`, with data in `folder` until the block ends.

    The process is forked from one that has imported all it needs, which saves the seconds of the imports; where Python
    is told what to run (`python`), it is started anew.
    """
    log, said = folder / "server.log", folder / "server.out"
    command = ["serve", "--port", "0", "--data", str(data or folder / "data"), *arguments]
    settings = {
        "ACCLIMATE_THREADS": "1",
        "ACCLIMATE_TRY_GRADIENTS": "false",  # a trial takes seconds, for each network with code of its own
        "ACCLIMATE_ALLOW_FACTORIES": f'["{FACTORY}", "tests.models:Tripwire", "service.demo.network:build"]',
    }
    whole = {**os.environ, **settings, **(environment or {})}
    log.write_text("")
    said.write_text("")
    process = _started(python, command, whole, said, log) if python else Forked(command, whole, ROOT, said, log)
    try:
        yield _announced(process, said, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _started(python: tuple[str, ...], command: list[str], environment: dict[str, str], said: Path, log: Path):
    with said.open("w") as output, log.open("w") as errors:
        return subprocess.Popen(
            [sys.executable, *python, *command], cwd=ROOT, env=environment, stdout=output, stderr=errors, text=True
        )


def _announced(process: subprocess.Popen | Forked, said: Path, log: Path) -> Server:
    """Wait until the server says where it listens."""
    running = True
    while running:
        running = process.poll() is None  # what it said before its end is read once more
        lines = said.read_text().splitlines()
        found = next(filter(None, (re.search(r"listens on (http://\S+)", line) for line in lines)), None)
        if found:
            return Server(process, found[1], log, lines)
        time.sleep(0.01)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def wait_ready(server: Server) -> None:
    with server.client() as client:
        for _ in range(200):
            try:
                if client.get("/v2/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if server.process.poll() is not None:
                break
    raise AssertionError(f"the server is not ready:\n{server.log.read_text()}")


def infer_body(
    x: np.ndarray, stream: str | None = None, request_id: str | None = None, **parameters: Any
) -> dict[str, Any]:
    """A V2 JSON body for a batch (N, C, H, W)."""
    if stream is not None:
        parameters["sequence_id"] = stream
    body = {
        "inputs": [{"name": "images", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}],
        "parameters": parameters,
    }
    return body if request_id is None else {**body, "id": request_id}


def outputs(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    return {o["name"]: np.asarray(o["data"]).reshape(o["shape"]) for o in answer["outputs"]}


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 16, 16), dtype=np.float32)
