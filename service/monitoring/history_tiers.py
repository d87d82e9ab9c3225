"""Series in tiers, each of a resolution of its own: slots of time that become points, kept compressed."""

import math
import struct
import zlib
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from service.monitoring.signals import charted

Points: TypeAlias = npt.NDArray[np.void]
"""Points of one tier, of dtype POINT."""

CHUNK = 60
"""Points that are compressed together."""
MOST = 1000
"""Points of one answer, about."""
STAMPS = ("cursor", "time", "generation", "requests", "images")
SIGNALS = charted()
COUNT = len(SIGNALS)
HALF = 65504.0
"""Greatest number in half precision, which points are kept in: three significant digits."""


def point_of(count: int) -> "np.dtype[np.void]":
    """Return how a point of so many signals lies in memory."""
    stamps = [(name, "<u4") for name in STAMPS]
    return np.dtype([*stamps, ("mean", "<f2", (count,)), ("low", "<f2", (count,)), ("high", "<f2", (count,))])


POINT = point_of(COUNT)
PACKED = struct.Struct(f"<5I{3 * COUNT}e")
UNBOUNDED = 2**32 - 1
NONE_YET = np.empty(0, POINT)


@dataclass(frozen=True, slots=True)
class Resolution:
    """A tier's seconds per point, and how many points it keeps."""

    seconds: int
    points: int

    @property
    def span(self) -> int:
        """Seconds that it reaches back."""
        return self.seconds * self.points


TIERS = (Resolution(1, 900), Resolution(10, 2160), Resolution(300, 4032))
"""A second for 15 minutes, 10 s for 6 hours, 5 minutes for 14 days; each slot lies in one of the next tier."""


class Slot:
    """The requests of a slot of time that has not ended: sums by signal, weighted by requests."""

    __slots__ = ("cursor", "generation", "highs", "images", "lows", "number", "requests", "sums", "time", "weights")

    def __init__(self, number: int) -> None:
        self.number, self.requests, self.images, self.cursor, self.generation, self.time = number, 0, 0, 0, 0, 0.0
        zeros, nothing = [0.0] * COUNT, [math.nan] * COUNT
        self.sums, self.weights = array("d", zeros), array("d", zeros)
        self.lows, self.highs = array("d", nothing), array("d", nothing)

    def take(self, means: Sequence[float], lows: Sequence[float], highs: Sequence[float], requests: int) -> None:
        """Add the signals of some requests; NaN is left out."""
        for place, mean in enumerate(means):
            if not math.isfinite(mean):
                continue
            self.sums[place] += mean * requests
            self.weights[place] += requests
            if not self.lows[place] <= lows[place]:
                self.lows[place] = lows[place]
            if not self.highs[place] >= highs[place]:
                self.highs[place] = highs[place]

    def stamp(self, cursor: int, time: float, generation: int, requests: int, images: int) -> None:
        """Count these requests, of which the newest has this cursor, time and generation."""
        self.cursor, self.time, self.generation = cursor, time, generation
        self.requests += requests
        self.images += images

    @property
    def means(self) -> list[float]:
        """The mean of each signal; NaN where it is not known."""
        return [s / w if w else math.nan for s, w in zip(self.sums, self.weights, strict=True)]

    def packed(self) -> bytes:
        """Return the slot as one point."""
        stamps = (self.cursor, int(self.time), self.generation, self.requests, self.images)
        values = (*self.means, *self.lows, *self.highs)
        return PACKED.pack(
            *(min(max(stamp, 0), UNBOUNDED) for stamp in stamps),
            *(max(-HALF, min(HALF, v)) if v == v else v for v in values),
        )


class Tier:
    """Points of one resolution: the slot under way, points that wait to be compressed, and compressed chunks."""

    __slots__ = ("chunks", "held", "open", "resolution", "waiting")

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.open: Slot | None = None
        self.waiting = bytearray()
        self.chunks: deque[bytes] = deque(maxlen=-(-resolution.points // CHUNK))
        self.held = 0

    def slot(self, time: float) -> tuple[Slot, Slot | None]:
        """Return the slot of a time, and the one that has ended by that."""
        number = int(time // self.resolution.seconds)
        if self.open is not None and self.open.number == number:
            return self.open, None
        ended, self.open = self.open, Slot(number)
        if ended is not None:
            self.append(ended.packed())
        return self.open, ended

    def append(self, point: bytes) -> None:
        """Add a point behind all others."""
        self.waiting += point
        if len(self.waiting) >= CHUNK * PACKED.size:
            chunk = zlib.compress(by_column(self.waiting), 1)
            self.held += len(chunk) - (len(self.chunks[0]) if len(self.chunks) == self.chunks.maxlen else 0)
            self.chunks.append(chunk)
            self.waiting = bytearray()

    def points(self, *, with_open: bool = True) -> Points:
        """Return all points, the oldest first."""
        parts = [by_point(zlib.decompress(chunk)) for chunk in tuple(self.chunks)]
        parts.append(np.frombuffer(bytes(self.waiting), POINT))
        if with_open and self.open is not None:
            parts.append(np.frombuffer(self.open.packed(), POINT))
        return np.concatenate(parts)[-self.resolution.points :]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        slot = 0 if self.open is None else 4 * (COUNT * 8 + 64)
        return slot + len(self.waiting) + self.held


def by_signal(points: Points, names: Sequence[str]) -> Points:
    """Return points of other signals as points of SIGNALS; a signal that they lack is not known."""
    if tuple(names) == SIGNALS:
        return points
    moved = np.zeros(len(points), POINT)
    for stamp in STAMPS:
        moved[stamp] = points[stamp]
    for values in ("mean", "low", "high"):
        moved[values] = math.nan
        for place, name in enumerate(SIGNALS):
            if name in names:
                moved[values][:, place] = points[values][:, names.index(name)]
    return moved


def by_column(points: bytes | bytearray) -> bytes:
    """Return the bytes of points with those of equal places together, which compress to half as much."""
    return np.frombuffer(bytes(points), np.uint8).reshape(-1, PACKED.size).T.tobytes()


def by_point(columns: bytes, kind: "np.dtype[np.void]" = POINT) -> Points:
    """Return the points that `by_column` was given."""
    swapped = np.frombuffer(columns, np.uint8).reshape(kind.itemsize, -1).T
    return np.ascontiguousarray(swapped).reshape(-1).view(kind)


def _first_cursor(points: Points) -> Any:
    return points["cursor"].astype(np.int64) - points["requests"] + 1


def pieces_of(parts: Sequence[Points]) -> Iterator[Points]:
    """Cut tiers, the coarsest first, so that each request is in one of them: where a finer one begins, it goes on."""
    told = 0
    for place, points in enumerate(parts):
        left = points[_first_cursor(points) > told]
        finer = next((later for later in parts[place + 1 :] if len(later)), None)
        if finer is not None and len(left):
            left = left[_first_cursor(left) < _first_cursor(finer)[0]]
        told = max(told, int(left["cursor"][-1])) if len(left) else told
        yield left


def joined(parts: Sequence[Points]) -> Points:
    """Return the first part's points, and from finer ones the requests that it does not know of yet."""
    told, pieces = 0, []
    for points in parts:
        left = points[_first_cursor(points) > told]
        told = max(told, int(left["cursor"][-1])) if len(left) else told
        pieces.append(left)
    return np.concatenate(pieces)


def thinned(points: Points) -> Points:
    """Return points of one tier, neighbours merged where they are too many to be sent."""
    factor = -(-len(points) // (MOST // len(TIERS)))
    return points if factor < 2 else _merged(points, np.arange(0, len(points), factor))


def merged_by(points: Points, seconds: int) -> Points:
    """Return one point for all of each so many seconds."""
    if len(points) < 2:
        return points
    slots = points["time"] // seconds
    return _merged(points, np.concatenate([[0], np.flatnonzero(np.diff(slots)) + 1]))


def _merged(points: Points, starts: npt.NDArray[np.int64]) -> Points:
    """Return one point for those from each start to the next: sums, latest stamps, means weighted by requests."""
    merged = points[np.concatenate([starts[1:] - 1, [len(points) - 1]])].copy()
    for name in ("requests", "images"):
        merged[name] = np.add.reduceat(points[name], starts)
    means = points["mean"].astype(np.float64)
    weights = np.isfinite(means) * points["requests"][:, None].astype(np.float64)
    total = np.add.reduceat(weights, starts)
    sums = np.add.reduceat(np.nan_to_num(means) * weights, starts)
    merged["mean"] = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
    merged["low"] = np.fmin.reduceat(points["low"], starts)
    merged["high"] = np.fmax.reduceat(points["high"], starts)
    result: Points = merged
    return result
