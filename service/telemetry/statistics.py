"""Request counts and times per model, in the format of Triton's statistics extension."""

import time
from collections import defaultdict
from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """A number of requests and their total time in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one request."""
        self.count += 1
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class ModelTally:
    """The tallies of one model since the server started."""

    success: Tally
    fail: Tally
    infer: Tally
    images: int = 0
    last_ms: int = 0


class Statistics:
    """The tallies of all models."""

    def __init__(self) -> None:
        self._models: dict[str, ModelTally] = defaultdict(lambda: ModelTally(Tally(), Tally(), Tally()))

    def answered(self, model: str, images: int, seconds: float, infer_seconds: float) -> None:
        """Count an answered request, with its total time and its time on the worker."""
        tally = self._models[model]
        tally.success.add(seconds)
        tally.infer.add(infer_seconds)
        tally.images += images
        tally.last_ms = int(time.time() * 1000)

    def failed(self, model: str, seconds: float) -> None:
        """Count a refused or failed request."""
        self._models[model].fail.add(seconds)

    def of(self, model: str, version: str) -> dict[str, object]:
        """Return one model's statistics."""
        tally = self._models[model]
        empty = Tally()
        # Not measured; perf_analyzer exits unless this count equals that of compute_infer.
        unmeasured = Tally(tally.infer.count)
        queue = Tally(tally.success.count, max(0, tally.success.ns - tally.infer.ns))
        named = {
            "success": tally.success,
            "fail": tally.fail,
            "queue": queue,
            "compute_input": unmeasured,
            "compute_infer": tally.infer,
            "compute_output": unmeasured,
            "cache_hit": empty,
            "cache_miss": empty,
        }
        return {
            "name": model,
            "version": version,
            "last_inference": tally.last_ms,
            "inference_count": tally.images,
            "execution_count": tally.infer.count,
            "inference_stats": {name: {"count": value.count, "ns": value.ns} for name, value in named.items()},
            "batch_stats": [],
        }
