"""Bounds on JSON that are checked before a parser builds objects from it."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from service.errors import TooLargeError
from service.types import JsonLimits

_PIECE = 2**20
_QUOTE = ord('"')


@dataclass(frozen=True, slots=True)
class Structure:
    """Counts of a JSON text: arrays and objects, colons, commas, and how deep arrays and objects nest."""

    containers: int
    keys: int
    values: int
    depth: int


def check_json(text: bytes | memoryview, limits: JsonLimits) -> None:
    """Refuse a JSON text that would take too much memory or time to parse.

    Most texts are counted as they are, strings included, which counts too much at worst; only those beyond a bound are
    counted without their strings.

    Raises:
        TooLargeError: It holds more than the limits allow.
    """
    if len(text) > limits.bytes:
        said = f"the JSON part has {len(text)} bytes, expected at most {limits.bytes}"
        raise TooLargeError(f"{said}; send tensors as binary data (binary_data_size)")
    raw = bytes(text)
    found = _structure(raw, limits, exact=False)
    if _excess(found, limits):
        excess = _excess(_structure(_without_escapes(raw), limits, exact=True), limits)
        if excess:
            raise TooLargeError(f"the JSON part holds {excess}")


def _excess(found: Structure, limits: JsonLimits) -> str:
    """Return in words which bound is exceeded; "" if none is."""
    if found.depth > limits.depth:
        return f"arrays and objects nested {found.depth} deep, expected at most {limits.depth}"
    for name, words in (("containers", "arrays and objects"), ("keys", "keys"), ("values", "values")):
        most = getattr(limits, name)
        if getattr(found, name) > most:
            return f"more than {most} {words}; send tensors as binary data (binary_data_size)"
    return ""


def _structure(raw: bytes, limits: JsonLimits, *, exact: bool) -> Structure:
    """Count a text; `exact` leaves strings out, from a text without escapes."""
    if not exact:
        containers = raw.count(b"[") + raw.count(b"{")
        depth = _depth(np.frombuffer(raw, np.uint8)) if containers > limits.depth else containers
        return Structure(containers, raw.count(b":"), raw.count(b","), depth)
    outside = _outside_strings(np.frombuffer(raw, np.uint8))
    counted = np.bincount(outside, minlength=256)
    containers, keys, values = (int(sum(counted[ord(sign)] for sign in signs)) for signs in ("[{", ":", ","))
    return Structure(containers, keys, values, _depth(outside))


def _without_escapes(raw: bytes) -> bytes:
    """Remove escaped backslashes and quotes, after which every quote begins or ends a string."""
    return raw.replace(b"\\\\", b"").replace(b'\\"', b"")


def _outside_strings(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the bytes that are in no string."""
    inside: npt.NDArray[np.uint8] = np.bitwise_xor.accumulate((text == _QUOTE).view(np.uint8))
    outside: npt.NDArray[np.uint8] = text[inside == 0]
    return outside


def _depth(text: npt.NDArray[np.uint8]) -> int:
    """Return how deep arrays and objects nest, counted piece by piece, so that a large text takes little memory."""
    deepest = depth = 0
    for start in range(0, len(text), _PIECE):
        steps = np.cumsum(_steps()[text[start : start + _PIECE]], dtype=np.int32)
        deepest = max(deepest, depth + int(steps.max()))
        depth += int(steps[-1])
    return deepest


@cache
def _steps() -> npt.NDArray[np.int8]:
    """Return by byte how it changes the depth."""
    steps = np.zeros(256, np.int8)
    steps[[ord("["), ord("{")]] = 1
    steps[[ord("]"), ord("}")]] = -1
    return steps
