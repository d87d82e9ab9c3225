"""Compressed bodies, inflated piece by piece and no further than a bound."""

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from service.errors import MalformedError, TooLargeError, UnsupportedError

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_PLAIN = frozenset({"", "identity"})
_CODINGS: Mapping[str, str] = MappingProxyType({"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"})
_MAX_MEMBERS = 1000
"""Of one gzip body. Each begins anew, so that a body of empty ones would take long."""


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
        self._begun = b""  # too little to know which form of deflate it is
        self._members = 0
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what a piece of the body inflates to.

        Raises:
            TooLargeError: The body inflates to more than the bound.
            MalformedError: It is not compressed as it says.
        """
        data, self._begun = self._begun + data, b""
        out = []
        while data:
            if self._stream is None and len(data) < len(b"\x78\x9c"):
                self._begun = data
                break
            inflated, data = self._inflate(data)
            out.append(inflated)
        return b"".join(out)

    def finish(self) -> None:
        """End the body.

        Raises:
            MalformedError: It is truncated.
        """
        if self._begun or self._stream is not None or not self._members:
            raise MalformedError(f"the body is truncated: its {self._coding} stream does not end")

    def _inflate(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what data inflate to, and what follows where the stream ends within them."""
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
    """Return what makes the inflater of a body by its Content-Encoding and bound; None for one that is not compressed.

    Raises:
        UnsupportedError: The coding is another than gzip and deflate, or there are several.
    """
    name = content_encoding.strip().lower()
    if name in _PLAIN:
        return None
    coding = _CODINGS.get(name)
    if coding is None:
        raise UnsupportedError(f"Content-Encoding is {content_encoding[:100]!r}, expected gzip, deflate or none")
    return lambda max_bytes: Inflater(coding, max_bytes)


def _is_zlib(data: bytes) -> bool:
    """Whether data begin as zlib's form of deflate does; some clients send the raw form."""
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
