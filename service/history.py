"""The recent past of a stream: series behind the dashboard, in bounded memory, coarser the older they are."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapters.monitors.layer_distance import LayerDistance
from service.types import Array

RECENT = 120
"""Requests of the newest that are kept each by itself; as many points tell of all before."""
LAYER_ROWS = 60
SPARKS = 32
STAMPS = ("cursor", "time", "generation", "requests", "images")
SIGNALS = (
    "entropy", "drift", "agreement", "source_gap", "forgetting", "estimated_accuracy", "source_estimated_accuracy",
    "true_accuracy", "selected_ratio", "milliseconds", "confidence", "confidence_accuracy",
    "source_confidence_accuracy",
)  # fmt: skip
COLUMNS = (*STAMPS, *SIGNALS)
SUMMED = frozenset({"requests", "images"})
LATEST = frozenset({"cursor", "time", "generation"})
REQUESTS = COLUMNS.index("requests")
ENTROPY = COLUMNS.index("entropy")


@dataclass(frozen=True, slots=True)
class Misfit:
    """An image that a stream was unsure of, kept because the operator allowed it.

    Attributes:
        time: When it came, Unix seconds.
        label: The answered class.
        entropy: Of the answer, nats.
        image: (C, H, W) uint8.
    """

    time: float
    label: int
    entropy: float
    image: Array


@dataclass(frozen=True, slots=True)
class LayerRow:
    """Distances by layer, at a time: Wasserstein in source standard deviations, symmetric KL in nats."""

    time: float
    wasserstein: "array[float]"
    divergence: "array[float]"


@dataclass(slots=True)
class History:
    """A stream's series; lost when the server stops.

    Attributes:
        recent: The newest points, one a request, in the order of COLUMNS.
        older: Points that each stand for several requests; halved in number when there are too many.
        layers: How far the layers' inputs were from the source's.
        misfits: Images that the stream was unsure of.
    """

    recent: list["array[float]"] = field(default_factory=list)
    older: list["array[float]"] = field(default_factory=list)
    layers: list[LayerRow] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    cursor: int = 0

    def add(self, time: float, generation: int, images: int, signals: Mapping[str, float]) -> None:
        """Take in one request; a signal that is not given is not known."""
        self.cursor += 1
        point = (float(self.cursor), time, float(generation), 1.0, float(images))
        self.recent.append(array("d", [*point, *(signals.get(name, math.nan) for name in SIGNALS)]))
        if len(self.recent) > RECENT:
            self.older.append(self.recent.pop(0))
        if len(self.older) > RECENT:
            pairs = zip(self.older[::2], self.older[1::2], strict=False)
            odd = self.older[-1:] if len(self.older) % 2 else []
            self.older = [*(_merged(*pair) for pair in pairs), *odd]

    def add_layers(self, time: float, distances: Sequence[LayerDistance]) -> None:
        """Take in how far each layer was from the source."""
        wasserstein = array("f", [float(layer.wasserstein) for layer in distances])
        self.layers.append(LayerRow(time, wasserstein, array("f", [float(layer.kl) for layer in distances])))
        del self.layers[:-LAYER_ROWS]

    def add_misfit(self, misfit: Misfit, keep: int) -> None:
        """Take in an image, of which the newest `keep` stay."""
        self.misfits.append(misfit)
        del self.misfits[:-keep]

    def since(self, cursor: int) -> list[list[float | None]]:
        """Return the points that end after a cursor, the oldest first; None where a value is not known."""
        points = (point for point in (*self.older, *self.recent) if point[0] > cursor)
        return [[value if math.isfinite(value) else None for value in point] for point in points]

    def time_of(self, cursor: int) -> float:
        """Return the time of the newest point up to a cursor; 0 where there is none."""
        return max((point[1] for point in (*self.older, *self.recent) if point[0] <= cursor), default=0.0)

    def sparks(self) -> list[float]:
        """Return the newest entropies, the oldest first."""
        newest = (point[ENTROPY] for point in self.recent[-SPARKS:])
        return [round(value, 4) for value in newest if math.isfinite(value)]


def _merged(one: "array[float]", other: "array[float]") -> "array[float]":
    """Return one point for two neighbours: sums, the later stamp, and means weighted by requests."""
    merged = array("d")
    for name, first, second in zip(COLUMNS, one, other, strict=True):
        if name in SUMMED:
            merged.append(first + second)
        elif name in LATEST:
            merged.append(second)
        else:
            weighted = [(v, p[REQUESTS]) for v, p in ((first, one), (second, other)) if math.isfinite(v)]
            total = sum(weight for _, weight in weighted)
            merged.append(sum(v * weight for v, weight in weighted) / total if total else math.nan)
    return merged
