"""Inflates compressed bodies piece by piece, up to a bound."""

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from service.errors import MalformedError, TooLargeError, UnsupportedError

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_PLAIN = frozenset({"", "identity"})
_CODINGS: Mapping[str, str] = MappingProxyType({"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"})
_MAX_MEMBERS = 1000
"""Most members of a gzip body. Each needs a new decompressor, so a body of empty members would take long."""


class Inflater:
    """Inflates one body.

    Example:
        >>> inflater = Inflater("gzip", max_bytes=100)
        >>> inflater.feed(zlib.compress(b"images", wbits=31)), inflater.finish()
        (b'images', None)
    """

    def __init__(self, coding: str, max_bytes: int) -> None:
        self._coding = coding
        self._left = self._max_bytes = max_bytes
        self._undecided = b""  # the first byte of a stream, until the second shows which form of deflate it is
        self._members = 0
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> bytes:
        """Inflate the next piece of the body.

        Raises:
            TooLargeError: The body inflates to more than `max_bytes`.
            MalformedError: The body is not compressed with its declared coding.
        """
        data, self._undecided = self._undecided + data, b""
        out = []
        while data:
            if self._stream is None and len(data) < len(b"\x78\x9c"):
                self._undecided = data
                break
            inflated, data = self._inflate(data)
            out.append(inflated)
        return b"".join(out)

    def finish(self) -> None:
        """Check that the body has ended.

        Raises:
            MalformedError: The body is truncated.
        """
        if self._undecided or self._stream is not None or not self._members:
            raise MalformedError(f"the body is truncated: its {self._coding} stream does not end")

    def _inflate(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the inflated data, and the bytes that follow the end of the stream, if it ends here."""
        stream = self._stream = self._stream or self._begin(data)
        try:
            inflated = stream.decompress(data, self._left + 1)
        except zlib.error as error:
            raise MalformedError(f"the body is not {self._coding}: {error}") from None
        self._left -= len(inflated)
        if self._left < 0:
            raise TooLargeError(f"the body inflates to more than {self._max_bytes} bytes")
        if stream.eof:
            self._stream = None
        return inflated, stream.unused_data

    def _begin(self, data: bytes) -> "zlib._Decompress":
        self._members += 1
        if self._members > (_MAX_MEMBERS if self._coding == "gzip" else 1):
            raise MalformedError(f"the body has {self._members} {self._coding} streams; fewer are expected")
        if self._coding == "gzip":
            return zlib.decompressobj(_GZIP)
        return zlib.decompressobj(_ZLIB if _is_zlib(data) else _RAW)


def inflater_of(content_encoding: str) -> Callable[[int], Inflater] | None:
    """Return a function that makes an Inflater for a bound in bytes, or None if the body is not compressed.

    Raises:
        UnsupportedError: The Content-Encoding is not one of gzip, deflate and identity, or names several codings.
    """
    name = content_encoding.strip().lower()
    if name in _PLAIN:
        return None
    coding = _CODINGS.get(name)
    if coding is None:
        raise UnsupportedError(f"Content-Encoding is {content_encoding[:100]!r}, expected gzip, deflate or none")
    return lambda max_bytes: Inflater(coding, max_bytes)


def _is_zlib(data: bytes) -> bool:
    """Return whether data begin with a zlib header; some clients send raw deflate instead."""
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
