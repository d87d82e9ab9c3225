"""V2's datatypes, and conversion of JSON values and raw bytes to arrays of the declared shape."""

import binascii
import math
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from service.errors import MalformedError, TooLargeError, UnfitError, UnsupportedError
from service.types import Array, Limits
from service.wire.fields import shown

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The NumPy dtype of every datatype of fixed size, little-endian. Elements of BYTES carry their own lengths."""

_DATATYPE_OF = {dtype: datatype for datatype, dtype in DATATYPES.items()}
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Declaration:
    """The declaration of an input: all that the request says of it except its values.

    Attributes:
        name: The tensor's name.
        shape: The declared shape; `check` validates it.
        datatype: The declared V2 datatype; `check` validates it.
    """

    name: str
    shape: tuple[int, ...]
    datatype: str

    @property
    def elements(self) -> int:
        """The number of elements of the declared shape, as a Python integer, which cannot overflow."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"Input {shown(self.name)} ({self.datatype:.20} {shown(list(self.shape))})"

    def check(self, limits: Limits) -> None:
        """Check the datatype and the shape.

        Raises:
            UnfitError: The datatype is unknown; or the shape is empty, has too many dimensions, or has one below 1.
            TooLargeError: The first dimension, or for BYTES the number of elements, exceeds `limits.max_batch`.
        """
        if self.datatype != "BYTES" and self.datatype not in DATATYPES:
            raise UnfitError(f"{self}: the datatype is not known; there are: {', '.join(DATATYPES)}, BYTES")
        if not 1 <= len(self.shape) <= limits.max_json_depth:
            raise UnfitError(f"{self}: {len(self.shape)} dimensions; 1 to {limits.max_json_depth} are expected")
        if min(self.shape) < 1:
            raise UnfitError(f"{self}: every dimension must be at least 1")
        batch = self.elements if self.datatype == "BYTES" else self.shape[0]
        if batch > limits.max_batch:
            raise TooLargeError(f"{self}: a batch of {batch}; at most {limits.max_batch} are allowed")


def read_json(declared: Declaration, data: list[Any]) -> Array | list[bytes]:
    """Turn JSON values into an array of the declared shape. They may be nested, or flat in row-major order.

    JSON cannot hold raw bytes, so the elements of a BYTES tensor are base64 strings here.

    Args:
        declared: A declaration that passed `check`.
        data: The parsed JSON value of `data`.

    Raises:
        UnfitError: The values are ragged, their number or type is not the declared one, or one is out of range.
    """
    flat = _flatten(declared, data)
    if len(flat) != declared.elements:
        raise UnfitError(f"{declared}: {len(flat)} values were given; the shape takes {declared.elements}")
    if declared.datatype == "BYTES":
        return _read_base64(declared, flat)
    dtype = DATATYPES[declared.datatype]
    return _READERS[dtype.kind](declared, flat, dtype).reshape(declared.shape)


def read_raw(declared: Declaration, data: memoryview) -> Array | list[bytes]:
    """Turn raw little-endian bytes into an array of the declared shape, as a view of `data`; for BYTES, into a list.

    Args:
        declared: A declaration that passed `check`.
        data: The bytes of this tensor alone.

    Raises:
        MalformedError: A BYTES element extends beyond the end of the data.
        UnfitError: The number of bytes or of elements does not match the shape, or a BOOL is neither 0 nor 1.
    """
    if declared.datatype == "BYTES":
        return _read_lengths(declared, data)
    dtype = DATATYPES[declared.datatype]
    if len(data) != declared.elements * dtype.itemsize:
        expected = declared.elements * dtype.itemsize
        raise UnfitError(f"{declared}: {len(data)} bytes were given; the shape takes {expected}")
    if dtype.kind == "b":
        return _read_bools(declared, data)
    return np.frombuffer(data, dtype).reshape(declared.shape)


def datatype_of(array: Array) -> str:
    """Return the V2 datatype of an array.

    >>> datatype_of(np.zeros(2, np.float32))
    'FP32'

    Raises:
        UnsupportedError: V2 has no datatype for the array's dtype.
    """
    datatype = _DATATYPE_OF.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise UnsupportedError(f"An array of {array.dtype} has no datatype in V2; there are: {', '.join(DATATYPES)}")
    return datatype


def write_raw(array: Array) -> bytes:
    """Return an array as raw little-endian bytes in row-major order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _flatten(declared: Declaration, data: list[Any]) -> list[Any]:
    if not data or type(data[0]) is not list:
        return data
    level = [data]
    for dimension in declared.shape:
        if any(type(row) is not list or len(row) != dimension for row in level):
            raise UnfitError(f"{declared}: the nested data are ragged or of another shape than declared")
        level = list(chain.from_iterable(level))
    return level


def _check_types(declared: Declaration, flat: list[Any], allowed: frozenset[type], expected: str) -> None:
    types = set(map(type, flat))
    if types <= allowed:
        return
    stranger = next(value for value in flat if type(value) not in allowed)
    raise UnfitError(f"{declared}: {shown(stranger)} was given among the values; {expected} are expected")


def _json_bools(declared: Declaration, flat: list[Any], dtype: np.dtype[Any]) -> Array:
    _check_types(declared, flat, frozenset({bool}), "true and false")
    return np.array(flat, dtype)


def _json_integers(declared: Declaration, flat: list[Any], dtype: np.dtype[Any]) -> Array:
    # orjson reads an integer beyond 64 bits as a float, so this check refuses it too.
    _check_types(declared, flat, frozenset({int}), "integers of at most 64 bits")
    lowest, highest = min(flat), max(flat)
    allowed = np.iinfo(dtype)
    if lowest < allowed.min or highest > allowed.max:
        problem = f"values from {lowest} to {highest} were given"
        raise UnfitError(f"{declared}: {problem}; {allowed.min} to {allowed.max} are expected")
    return np.array(flat, dtype)


def _json_floats(declared: Declaration, flat: list[Any], dtype: np.dtype[Any]) -> Array:
    if declared.datatype == "FP16":
        raise UnfitError(f"{declared}: FP16 has no JSON form; send it as binary data (binary_data_size)")
    _check_types(declared, flat, frozenset({int, float}), "numbers")
    with np.errstate(over="ignore"):
        values = np.array(flat, np.float64).astype(dtype, copy=False)
    if not np.isfinite(values).all():
        raise UnfitError(f"{declared}: a value is beyond the datatype's range of +-{np.finfo(dtype).max}")
    return values


_READERS: dict[str, Callable[[Declaration, list[Any], np.dtype[Any]], Array]] = {
    "b": _json_bools,
    "u": _json_integers,
    "i": _json_integers,
    "f": _json_floats,
}


def _read_base64(declared: Declaration, flat: list[Any]) -> list[bytes]:
    _check_types(declared, flat, frozenset({str}), "base64 strings")
    try:
        return [b64decode(value, validate=True) for value in flat]
    except (binascii.Error, ValueError) as error:
        raise UnfitError(f"{declared}: the elements of BYTES in JSON must be base64 strings: {error}") from error


def _read_lengths(declared: Declaration, data: memoryview) -> list[bytes]:
    elements: list[bytes] = []
    start = 0
    while start < len(data):
        if len(elements) == declared.elements:
            raise UnfitError(f"{declared}: more than {len(elements)} elements were given; the shape takes no more")
        end = start + _LENGTH_BYTES  # if the length itself is truncated, this lies beyond the data
        end += int.from_bytes(data[start:end], "little")
        if end > len(data):
            raise MalformedError(f"{declared}: element {len(elements)} is truncated; it ends at {end} of {len(data)}")
        elements.append(bytes(data[start + _LENGTH_BYTES : end]))
        start = end
    if len(elements) != declared.elements:
        raise UnfitError(f"{declared}: {len(elements)} elements were given; the shape takes {declared.elements}")
    return elements


def _read_bools(declared: Declaration, data: memoryview) -> Array:
    values = np.frombuffer(data, np.uint8)
    if values.max() > 1:
        raise UnfitError(f"{declared}: a byte of {values.max()} was given; a BOOL is 0 or 1")
    return values.view(np.bool_).reshape(declared.shape)
