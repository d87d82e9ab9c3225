"""Streams of the embedded model on a real server: made, asked, listed, and their requests summed up."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.server import Server, Setting, serving
from service.client import Client

MODEL, SHAPE = "fashion", (1, 28, 28)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of requests."""

    requests: int
    median: float
    p99: float


def serving_embedded(folder: Path, threads: int, spec: str, resident_mib: int) -> AbstractContextManager[Server]:
    """Run a server of the embedded model while the block runs, with the graph of a spec, if it has one."""
    settings: dict[str, Setting] = {
        "threads": threads,
        "compiled_specs": [spec],
        "resident_bytes": resident_mib * 2**20,
    }
    return serving(folder, settings)


def latency_of(seconds: list[float]) -> Latency:
    """Sum up requests; nan where there are none."""
    known = 1000 * np.array(seconds or [np.nan])
    return Latency(len(seconds), float(np.median(known)), float(np.quantile(known, 0.99)))


class Asking:
    """Asks streams, and times it."""

    def __init__(self, client: Client, spec: str, durability: str, batch: int) -> None:
        self._client = client
        self._kind = {"model": MODEL, "adapter": spec, "durability": durability}
        self._batch = np.random.default_rng(0).random((batch, *SHAPE), dtype=np.float32)

    def create(self, stream: str) -> None:
        """Make a stream."""
        self._client.call("POST", "/v1/streams", {"id": stream, **self._kind})

    def infer(self, stream: str) -> float:
        """Ask a stream; return the seconds it took."""
        began = perf_counter()
        self._client.infer(MODEL, "input", self._batch, stream)
        return perf_counter() - began

    def resting(self) -> list[str]:
        """Return the streams out of memory now, by the listing: to look at one brings it back."""
        found, after = [], ""
        while True:
            page = self._client.call("GET", f"/v1/streams?limit=1000{after}")
            found += [stream["id"] for stream in page["items"] if not stream["resident"]]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"
