"""Bounds on a JSON text, checked before it is parsed."""

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
    """Counts in a JSON text: arrays and objects, colons, commas, and the nesting depth."""

    containers: int
    keys: int
    values: int
    depth: int


def check_json(text: bytes | memoryview, limits: JsonLimits) -> None:
    """Check that a JSON text does not take too much memory or time to parse.

    The first count includes the contents of strings, so it may be too high. Only a text that exceeds a bound by it is
    counted again without strings.

    Raises:
        TooLargeError: The text exceeds a limit.
    """
    if len(text) > limits.bytes:
        problem = f"the JSON part has {len(text)} bytes, expected at most {limits.bytes}"
        raise TooLargeError(f"{problem}; send tensors as binary data (binary_data_size)")
    raw = bytes(text)
    found = _structure(raw, limits, exact=False)
    if _excess(found, limits):
        excess = _excess(_structure(_without_escapes(raw), limits, exact=True), limits)
        if excess:
            raise TooLargeError(f"the JSON part holds {excess}")


def _excess(found: Structure, limits: JsonLimits) -> str:
    """Describe the first bound that is exceeded; "" if none is."""
    if found.depth > limits.depth:
        return f"arrays and objects nested {found.depth} deep, expected at most {limits.depth}"
    for name, words in (("containers", "arrays and objects"), ("keys", "keys"), ("values", "values")):
        most = getattr(limits, name)
        if getattr(found, name) > most:
            return f"more than {most} {words}; send tensors as binary data (binary_data_size)"
    return ""


def _structure(raw: bytes, limits: JsonLimits, *, exact: bool) -> Structure:
    """Count a text's structure. With `exact`, strings are left out; the text must then hold no escapes."""
    if not exact:
        containers = raw.count(b"[") + raw.count(b"{")
        depth = _depth(np.frombuffer(raw, np.uint8)) if containers > limits.depth else containers
        return Structure(containers, raw.count(b":"), raw.count(b","), depth)
    outside = _outside_strings(np.frombuffer(raw, np.uint8))
    counted = np.bincount(outside, minlength=256)
    containers, keys, values = (int(sum(counted[ord(sign)] for sign in signs)) for signs in ("[{", ":", ","))
    return Structure(containers, keys, values, _depth(outside))


def _without_escapes(raw: bytes) -> bytes:
    """Remove escaped backslashes and quotes, so that every remaining quote begins or ends a string."""
    return raw.replace(b"\\\\", b"").replace(b'\\"', b"")


def _outside_strings(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the bytes outside strings."""
    inside: npt.NDArray[np.uint8] = np.bitwise_xor.accumulate((text == _QUOTE).view(np.uint8))
    outside: npt.NDArray[np.uint8] = text[inside == 0]
    return outside


def _depth(text: npt.NDArray[np.uint8]) -> int:
    """Return the nesting depth. The text is counted piece by piece to save memory."""
    deepest = depth = 0
    for start in range(0, len(text), _PIECE):
        steps = np.cumsum(_steps()[text[start : start + _PIECE]], dtype=np.int32)
        deepest = max(deepest, depth + int(steps.max()))
        depth += int(steps[-1])
    return deepest


@cache
def _steps() -> npt.NDArray[np.int8]:
    """Return the change of depth at each byte value."""
    steps = np.zeros(256, np.int8)
    steps[[ord("["), ord("{")]] = 1
    steps[[ord("]"), ord("}")]] = -1
    return steps
