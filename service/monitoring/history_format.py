"""The storage format of a history: its points by tier, and the names of the signals, which differ between versions."""

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from service.monitoring.history_tiers import SIGNALS, TIERS, Points, by_column, by_point, by_signal, point_of

NAMED = 2**64 - 1
"""Marks a history that names its signals. In older ones, the cursor is in this place."""
HEAD = struct.Struct(f"<Q{len(TIERS)}I")
BEFORE_NAMES = (
    "entropy", "drift", "agreement", "source_gap", "forgetting", "estimated_accuracy", "source_estimated_accuracy",
    "true_accuracy", "selected_ratio", "milliseconds", "confidence", "confidence_accuracy",
    "source_confidence_accuracy",
)  # fmt: skip
"""The signals of histories from before signals were named."""


def pack(cursor: int, tiers: Sequence[Points]) -> bytes:
    """Return the points of all tiers and the number of requests so far as bytes."""
    parts, names = [by_column(points.tobytes()) for points in tiers], ",".join(SIGNALS).encode()
    named = struct.pack("<QI", cursor, len(names)) + names
    return zlib.compress(HEAD.pack(NAMED, *map(len, parts)) + named + b"".join(parts), 1)


def unpack(content: bytes) -> tuple[int, list[Points]]:
    """Return the number of requests and the points of all tiers. Signals that the history lacks are NaN.

    Raises:
        ValueError: If the content is damaged.
    """
    try:
        return _unpacked(zlib.decompress(content))
    except (zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"the history is damaged: {error}") from None


def _unpacked(content: bytes) -> tuple[int, list[Points]]:
    cursor, *lengths = HEAD.unpack_from(content)
    names: tuple[str, ...] = BEFORE_NAMES
    start = HEAD.size
    if cursor == NAMED:
        cursor, length = struct.unpack_from("<QI", content, start)
        start += struct.calcsize("<QI")
        names, start = tuple(content[start : start + length].decode().split(",")), start + length
    places, kind = np.cumsum([start, *lengths]).tolist(), point_of(len(names))
    parts = [by_point(content[first:last], kind) for first, last in pairwise(places)]
    return cursor, [by_signal(points, names) for points in parts]
