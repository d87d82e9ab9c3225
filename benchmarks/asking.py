"""Creates, queries and lists streams of the embedded model on a real server, and measures their latency."""

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
    """The latency of requests in milliseconds."""

    requests: int
    median: float
    p99: float


def serving_embedded(folder: Path, threads: int, spec: str, resident_mib: int) -> AbstractContextManager[Server]:
    """Run a server of the embedded model during the block, with the graph of a spec if it has one."""
    settings: dict[str, Setting] = {
        "threads": threads,
        "compiled_specs": [spec],
        "resident_bytes": resident_mib * 2**20,
    }
    return serving(folder, settings)


def latency_of(seconds: list[float]) -> Latency:
    """Summarise the times of requests; NaN if there are none."""
    milliseconds = 1000 * np.array(seconds or [np.nan])
    return Latency(len(seconds), float(np.median(milliseconds)), float(np.quantile(milliseconds, 0.99)))


class Asking:
    """Sends requests to streams, and times them."""

    def __init__(self, client: Client, spec: str, durability: str, batch: int) -> None:
        self._client = client
        self._kind = {"model": MODEL, "adapter": spec, "durability": durability}
        self._batch = np.random.default_rng(0).random((batch, *SHAPE), dtype=np.float32)

    def create(self, stream: str) -> None:
        """Create a stream."""
        self._client.call("POST", "/v1/streams", {"id": stream, **self._kind})

    def infer(self, stream: str) -> float:
        """Send a batch to a stream, and return the seconds until its answer."""
        began = perf_counter()
        self._client.infer(MODEL, "input", self._batch, stream)
        return perf_counter() - began

    def resting(self) -> list[str]:
        """Return the streams that are not in memory. It uses the listing, because reading a stream would load it."""
        found, after = [], ""
        while True:
            page = self._client.call("GET", f"/v1/streams?limit=1000{after}")
            found += [stream["id"] for stream in page["items"] if not stream["resident"]]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"
