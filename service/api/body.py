"""Request bodies, read no further than their bound."""

from collections.abc import AsyncIterator

import numpy as np
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import MalformedError, TooLargeError

ALIGNMENT = 64
"""Bytes: an address that is a multiple is right for any number, and for any processor's wide ones."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body.

    Raises:
        TooLargeError: As soon as it is known to hold more than `max_bytes`.
    """
    return b"".join([chunk async for chunk in _chunks(request, max_bytes)])


async def read_aligned(request: Request, max_bytes: int, lead: int) -> memoryview:
    """Read a body, as it comes, into memory of its own in which the tensors behind its first `lead` bytes can stay.

    Raises:
        TooLargeError: As soon as it is known to hold more than `max_bytes`.
        MalformedError: If it has more or fewer bytes than it declares.
    """
    size = _declared(request)
    if size is None:
        body = await read_body(request, max_bytes)
        own = _aligned(len(body), lead)
        own[:] = body
        return own
    _check_size(size, max_bytes)
    own, end = _aligned(size, lead), 0
    async for chunk in _chunks(request, max_bytes):
        start, end = end, end + len(chunk)
        if end <= size:
            own[start:end] = chunk
    if end != size:
        raise MalformedError(f"the body has {end} bytes, expected {size} as Content-Length says")
    return own


def _declared(request: Request) -> int | None:
    """Return the bytes that a body is said to have."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


def _check_size(declared: int | None, max_bytes: int) -> None:
    if declared is not None and declared > max_bytes:
        raise TooLargeError(f"the body has {declared} bytes, expected at most {max_bytes}")


async def _chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    _check_size(_declared(request), max_bytes)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(f"the body has more than {max_bytes} bytes")
        yield chunk


def _aligned(size: int, lead: int) -> memoryview:
    """Return new memory of which the address behind the first `lead` bytes is a multiple of ALIGNMENT."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -(room.ctypes.data + lead) % ALIGNMENT
    return room[start : start + size].data


class BodyBound:
    """Middleware that bounds the bodies which FastAPI reads by itself."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a body as it comes; once it holds too much, the reader is answered 413."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise HTTPException(413, f"the body has more than {self._max_bytes} bytes")
            return message

        await self._app(scope, bounded if scope["type"] == "http" else receive, send)
