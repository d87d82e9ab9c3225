"""The history of a stream for the dashboard: time series at several resolutions, in bounded memory.

A request is added only to the finest tier. When a time slot of a tier ends, it becomes a point there and is added to
the next tier. The cost of a request therefore does not depend on how far the history reaches back.
"""

import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapters.monitors.layer_distance import LayerDistance
from service.monitoring import history_format
from service.monitoring.history_tiers import (
    COUNT,
    MOST,
    SIGNALS,
    STAMPS,
    TIERS,
    Points,
    Tier,
    joined,
    merged_by,
    pieces_of,
    thinned,
)
from service.types import Array

RECENT = 120
"""Newest requests that are also kept one by one, for clients that follow a stream live."""
LAYER_ROWS = 60
SPARKS = 32
COLUMNS = (*STAMPS, *SIGNALS, *(f"{name}_min" for name in SIGNALS), *(f"{name}_max" for name in SIGNALS))
"""The columns of a point. Minima and maxima are None if it stands for one request."""
ENTROPY = COLUMNS.index("entropy")


@dataclass(frozen=True, slots=True)
class Misfit:
    """An image with an uncertain answer, kept because the operator allowed it.

    Attributes:
        time: Its arrival, Unix seconds.
        label: The answered class.
        entropy: The entropy of the answer, nats.
        image: (C, H, W) uint8.
    """

    time: float
    label: int
    entropy: float
    image: Array


@dataclass(frozen=True, slots=True)
class LayerRow:
    """Each layer's distances from the source at one time: Wasserstein in source standard deviations, KL in nats."""

    time: float
    wasserstein: "array[float]"
    divergence: "array[float]"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a history: rows in the order of COLUMNS, and the seconds per point; None if they differ."""

    rows: list[list[float | None]]
    resolution: int | None


@dataclass(slots=True)
class History:
    """A stream's time series.

    Attributes:
        recent: The newest requests, each in the order of STAMPS and SIGNALS.
        tiers: The tiers, the finest resolution first.
        layers: The newest distances of the layers' inputs from the source's.
        misfits: Images with uncertain answers.
        cursor: Number of requests so far.
        newest: Time of the newest request, Unix seconds.
        saved, saved_at: The cursor at the last write to disk, and the time of that write on the monotonic clock.
    """

    recent: "deque[array[float]]" = field(default_factory=lambda: deque(maxlen=RECENT))
    tiers: tuple[Tier, ...] = field(default_factory=lambda: tuple(map(Tier, TIERS)))
    layers: list[LayerRow] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    cursor: int = 0
    newest: float = 0.0
    saved: int = 0
    saved_at: float = 0.0

    def add(self, time: float, generation: int, images: int, signals: Mapping[str, float]) -> None:
        """Add one request. A signal missing from `signals` is unknown for it."""
        self.cursor += 1
        self.newest = time = max(time, self.newest)  # keeps points in order if the clock is set back
        values = [signals.get(name, math.nan) for name in SIGNALS]
        self.recent.append(array("d", [self.cursor, time, generation, 1, images, *values]))
        slot, ended = self.tiers[0].slot(time)
        slot.take(values, values, values, 1)
        slot.stamp(self.cursor, time, generation, 1, images)
        for tier in self.tiers[1:]:
            if ended is None:
                return
            slot, ended_here = tier.slot(ended.time)
            slot.take(ended.means, ended.lows, ended.highs, ended.requests)
            slot.stamp(ended.cursor, ended.time, ended.generation, ended.requests, ended.images)
            ended = ended_here

    def add_layers(self, time: float, distances: Sequence[LayerDistance]) -> None:
        """Add each layer's distance from the source."""
        wasserstein = array("f", [float(layer.wasserstein) for layer in distances])
        self.layers.append(LayerRow(time, wasserstein, array("f", [float(layer.kl) for layer in distances])))
        del self.layers[:-LAYER_ROWS]

    def add_misfit(self, misfit: Misfit, keep: int) -> None:
        """Add an image, and keep only the newest `keep` ones."""
        self.misfits.append(misfit)
        del self.misfits[:-keep]

    def since(self, cursor: int) -> list[list[float | None]]:
        """Return the points that end after a cursor, the oldest first; unknown values are None.

        If all requests since the cursor are still kept one by one, there is a point for each. Otherwise the points come
        from the tiers, newer ones at a finer resolution.
        """
        newest = tuple(self.recent)
        if newest and cursor >= newest[0][0] - 1:
            return [_row(point) for point in newest if point[0] > cursor]
        return [row for row in _rows(self._all()) if (row[0] or 0) > cursor]

    def spanning(self, seconds: float) -> Span:
        """Return the newest `seconds` at the finest resolution that reaches back that far."""
        tier = next((tier for tier in self.tiers if tier.resolution.span >= seconds), self.tiers[-1])
        finer = self.tiers[: self.tiers.index(tier)]
        points = joined([tier.points(), *(each.points()[-each.resolution.points :] for each in reversed(finer))])
        points = points[points["time"] > self.newest - seconds]
        width = tier.resolution.seconds
        factor = max(1, -(-int(min(seconds, tier.resolution.span)) // (width * MOST)))
        return Span(_rows(merged_by(points, width * factor)), width * factor)

    @property
    def oldest(self) -> float | None:
        """The time of the oldest point, Unix seconds; None before any request."""
        firsts = [points["time"][0] for points in (tier.points() for tier in self.tiers) if len(points)]
        return float(min(firsts)) if firsts else None

    @property
    def older(self) -> list[list[float | None]]:
        """The points before those requests that are still kept one by one."""
        first = self.recent[0][0] if self.recent else 1
        return [row for row in _rows(self._all()) if (row[0] or 0) < first]

    @property
    def nbytes(self) -> int:
        """Approximate size of all points in bytes."""
        return sum(tier.nbytes for tier in self.tiers) + len(self.recent) * (len(STAMPS) + COUNT + 8) * 8

    def time_of(self, cursor: int) -> float:
        """Return the time of the newest point up to a cursor; 0 if there is none."""
        if cursor <= 0:
            return 0.0
        newest = tuple(self.recent)
        if newest and cursor >= newest[0][0]:
            return max(point[1] for point in newest if point[0] <= cursor)
        points = self._all()
        before = points[points["cursor"] <= cursor]
        return float(before["time"][-1]) if len(before) else 0.0

    def sparks(self) -> list[float]:
        """Return the newest entropies, the oldest first."""
        newest = [point[ENTROPY] for point in tuple(self.recent)[-SPARKS:]]
        return [round(value, 4) for value in newest if math.isfinite(value)]

    def packed(self) -> bytes:
        """Return the points of all tiers as bytes to store. Slots that have not ended become points too."""
        return history_format.pack(self.cursor, [tier.points() for tier in self.tiers])

    def unpack(self, content: bytes) -> None:
        """Load stored points into this empty history.

        Raises:
            ValueError: If the content is damaged.
        """
        cursor, parts = history_format.unpack(content)
        for tier, points in zip(self.tiers, parts, strict=True):
            for point in points[-tier.resolution.points :]:
                tier.append(point.tobytes())
        self.cursor = cursor
        self.newest = float(max((points["time"][-1] for points in parts if len(points)), default=0.0))

    def _all(self) -> Points:
        """Return the whole history, each part at the finest resolution that covers it, thinned for sending."""
        parts = [tier.points() for tier in reversed(self.tiers)]
        return np.concatenate([thinned(piece) for piece in pieces_of(parts)])


def _row(point: "array[float]") -> list[float | None]:
    values: list[float | None] = [value if math.isfinite(value) else None for value in point]
    return values + [None] * (2 * COUNT)


def _rows(points: Points) -> list[list[float | None]]:
    stamps = np.stack([points[name].astype(np.float64) for name in STAMPS], 1).tolist() if len(points) else []
    means, lows, highs = (points[name].astype(np.float64).round(4).tolist() for name in ("mean", "low", "high"))
    rows = []
    for place, stamp in enumerate(stamps):
        is_one_request = stamp[3] == 1
        bounds = [math.nan] * (2 * COUNT) if is_one_request else [*lows[place], *highs[place]]
        rows.append([*stamp, *(value if math.isfinite(value) else None for value in (*means[place], *bounds))])
    return rows
