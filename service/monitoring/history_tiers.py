"""Time series in tiers of different resolutions: time slots become points, which are kept compressed."""

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
"""Points of one tier, with dtype POINT."""

CHUNK = 60
"""Points compressed together."""
MOST = 1000
"""Approximate maximum of points in one answer."""
STAMPS = ("cursor", "time", "generation", "requests", "images")
SIGNALS = charted()
COUNT = len(SIGNALS)
HALF = 65504.0
"""The largest number in half precision. Points are stored in it, with three significant digits."""


def point_of(count: int) -> "np.dtype[np.void]":
    """Return the dtype of a point with `count` signals."""
    stamps = [(name, "<u4") for name in STAMPS]
    return np.dtype([*stamps, ("mean", "<f2", (count,)), ("low", "<f2", (count,)), ("high", "<f2", (count,))])


POINT = point_of(COUNT)
PACKED = struct.Struct(f"<5I{3 * COUNT}e")
UNBOUNDED = 2**32 - 1
NONE_YET = np.empty(0, POINT)


@dataclass(frozen=True, slots=True)
class Resolution:
    """A tier's seconds per point, and the number of points it keeps."""

    seconds: int
    points: int

    @property
    def span(self) -> int:
        """Seconds that the tier reaches back."""
        return self.seconds * self.points


TIERS = (Resolution(1, 900), Resolution(10, 2160), Resolution(300, 4032))
"""1 s for 15 minutes, 10 s for 6 hours, 5 minutes for 14 days. Each slot lies within one slot of the next tier."""


class Slot:
    """A time slot that has not ended: sums, minima and maxima of its requests' signals, weighted by requests."""

    __slots__ = ("cursor", "generation", "highs", "images", "lows", "number", "requests", "sums", "time", "weights")

    def __init__(self, number: int) -> None:
        self.number, self.requests, self.images, self.cursor, self.generation, self.time = number, 0, 0, 0, 0, 0.0
        zeros, nothing = [0.0] * COUNT, [math.nan] * COUNT
        self.sums, self.weights = array("d", zeros), array("d", zeros)
        self.lows, self.highs = array("d", nothing), array("d", nothing)

    def take(self, means: Sequence[float], lows: Sequence[float], highs: Sequence[float], requests: int) -> None:
        """Add the signals of some requests; signals that are NaN are left out."""
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
        """Count some requests; `cursor`, `time` and `generation` are those of the newest one."""
        self.cursor, self.time, self.generation = cursor, time, generation
        self.requests += requests
        self.images += images

    @property
    def means(self) -> list[float]:
        """The mean of each signal; NaN if it is unknown."""
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
    """Points of one resolution: the open slot, points not yet compressed, and compressed chunks."""

    __slots__ = ("chunks", "held", "open", "resolution", "waiting")

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.open: Slot | None = None
        self.waiting = bytearray()
        self.chunks: deque[bytes] = deque(maxlen=-(-resolution.points // CHUNK))
        self.held = 0

    def slot(self, time: float) -> tuple[Slot, Slot | None]:
        """Return the slot of a time, and the previous slot if it has ended."""
        number = int(time // self.resolution.seconds)
        if self.open is not None and self.open.number == number:
            return self.open, None
        ended, self.open = self.open, Slot(number)
        if ended is not None:
            self.append(ended.packed())
        return self.open, ended

    def append(self, point: bytes) -> None:
        """Append a point."""
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
        """Approximate size in memory in bytes."""
        slot = 0 if self.open is None else 4 * (COUNT * 8 + 64)
        return slot + len(self.waiting) + self.held


def by_signal(points: Points, names: Sequence[str]) -> Points:
    """Convert points with other signals to points with SIGNALS; signals that they lack are NaN."""
    if tuple(names) == SIGNALS:
        return points
    converted = np.zeros(len(points), POINT)
    for stamp in STAMPS:
        converted[stamp] = points[stamp]
    for values in ("mean", "low", "high"):
        converted[values] = math.nan
        for place, name in enumerate(SIGNALS):
            if name in names:
                converted[values][:, place] = points[values][:, names.index(name)]
    return converted


def by_column(points: bytes | bytearray) -> bytes:
    """Transpose the bytes of points, so that equal positions lie together. This halves the compressed size."""
    return np.frombuffer(bytes(points), np.uint8).reshape(-1, PACKED.size).T.tobytes()


def by_point(columns: bytes, kind: "np.dtype[np.void]" = POINT) -> Points:
    """Invert `by_column`."""
    swapped = np.frombuffer(columns, np.uint8).reshape(kind.itemsize, -1).T
    return np.ascontiguousarray(swapped).reshape(-1).view(kind)


def _first_cursor(points: Points) -> Any:
    return points["cursor"].astype(np.int64) - points["requests"] + 1


def pieces_of(parts: Sequence[Points]) -> Iterator[Points]:
    """Cut tiers, coarsest first, so that no request is in two of them. A finer tier takes over where it begins."""
    covered = 0  # the newest cursor in the pieces so far
    for place, points in enumerate(parts):
        piece = points[_first_cursor(points) > covered]
        finer = next((later for later in parts[place + 1 :] if len(later)), None)
        if finer is not None and len(piece):
            piece = piece[_first_cursor(piece) < _first_cursor(finer)[0]]
        covered = max(covered, int(piece["cursor"][-1])) if len(piece) else covered
        yield piece


def joined(parts: Sequence[Points]) -> Points:
    """Return the first part's points, followed by the finer parts' points for later requests."""
    covered, pieces = 0, []
    for points in parts:
        piece = points[_first_cursor(points) > covered]
        covered = max(covered, int(piece["cursor"][-1])) if len(piece) else covered
        pieces.append(piece)
    return np.concatenate(pieces)


def thinned(points: Points) -> Points:
    """Merge neighbouring points of one tier if there are too many to send."""
    factor = -(-len(points) // (MOST // len(TIERS)))
    return points if factor < 2 else _merged(points, np.arange(0, len(points), factor))


def merged_by(points: Points, seconds: int) -> Points:
    """Merge points into one for each interval of `seconds`."""
    if len(points) < 2:
        return points
    slots = points["time"] // seconds
    return _merged(points, np.concatenate([[0], np.flatnonzero(np.diff(slots)) + 1]))


def _merged(points: Points, starts: npt.NDArray[np.int64]) -> Points:
    """Merge the points from each start to the next: sums, newest stamps, means weighted by requests."""
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
