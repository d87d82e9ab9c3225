"""Reads request bodies up to a limit, and decompresses them."""

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.held_bytes import hold
from service.errors import MalformedError, ServiceError, TooLargeError
from service.support.thread_pool import Pool
from service.types import JsonLimits
from service.wire.inflate import inflater_of
from service.wire.json_bounds import check_json

ALIGNMENT = 64
"""Alignment in bytes that suits every number type and every processor's vector instructions."""
SESSION, SESSION_BYTES = "/v1/session", 4096
"""The only path that accepts a body without a key, and its limit."""
CONTROL = JsonLimits(bytes=2**20, containers=10_000, keys=4_000, values=100_000)
"""Limits of bodies that FastAPI parses. Each wrong value in them becomes an error of a kilobyte."""
PARSING = Pool("parse")
"""Decompresses and parses large bodies one at a time, which limits the memory in use."""
SNAPSHOTS = "/v1/snapshots"
WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body, decompressed.

    Raises:
        TooLargeError: As soon as it is known to exceed `max_bytes`.
        UnsupportedError: If it is compressed by anything but gzip or deflate.
        MalformedError: If it cannot be decompressed.
    """
    return b"".join([chunk async for chunk in _chunks(request, max_bytes)])


async def read_aligned(request: Request, max_bytes: int, lead: int) -> memoryview:
    """Read a body into new memory that aligns the tensors after the body's first `lead` bytes.

    Raises:
        TooLargeError: As soon as it is known to exceed `max_bytes`.
        UnsupportedError: If it is compressed by anything but gzip or deflate.
        MalformedError: If its length differs from Content-Length, or it cannot be decompressed.
    """
    size = None if request.headers.get("content-encoding") else _declared(request)
    if size is None:
        return _joined([chunk async for chunk in _chunks(request, max_bytes)], lead)
    _check_size(size, max_bytes)
    own, end = _aligned(size, lead), 0
    async for chunk in _chunks(request, max_bytes):
        start, end = end, end + len(chunk)
        if end <= size:
            own[start:end] = chunk
    if end != size:
        raise MalformedError(f"the body has {end} bytes, expected {size} as Content-Length says")
    return own


def _joined(chunks: list[bytes], lead: int) -> memoryview:
    """Move chunks into new aligned memory. The list is empty afterwards, so that memory is freed on the way."""
    own, end = _aligned(sum(map(len, chunks)), lead), 0
    chunks.reverse()
    while chunks:
        chunk = chunks.pop()
        start, end = end, end + len(chunk)
        own[start:end] = chunk
    return own


def _declared(request: Request) -> int | None:
    """Return the body's length by Content-Length; None without a valid one."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


def _check_size(declared: int | None, max_bytes: int) -> None:
    if declared is not None and declared > max_bytes:
        raise TooLargeError(f"the body has {declared} bytes, expected at most {max_bytes}")


async def _chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield a body's chunks as they come, decompressed on another thread."""
    make = inflater_of(", ".join(request.headers.getlist("content-encoding")))
    _check_size(_declared(request), max_bytes)
    inflater, size = make and make(max_bytes), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(f"the body has more than {max_bytes} bytes")
        if inflater is not None:
            chunk = await PARSING.run(inflater.feed, chunk)
        hold(request, len(chunk))
        yield chunk
    if inflater is not None:
        inflater.finish()


def _aligned(size: int, lead: int) -> memoryview:
    """Return new memory whose address after the first `lead` bytes is a multiple of ALIGNMENT."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -(room.ctypes.data + lead) % ALIGNMENT
    return room[start : start + size].data


class BodyBound:
    """Middleware that reads the bodies that FastAPI parses, within limits on their bytes and their JSON."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._limits = replace(CONTROL, bytes=min(CONTROL.bytes, max_body_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when its body is complete; answer with an error if the body exceeds a limit."""
        if scope["type"] != "http" or scope["method"] in WITHOUT_BODY or _is_read_by_route(scope["path"]):
            await self._app(scope, receive, send)
            return
        most = SESSION_BYTES if scope["path"] == SESSION else self._limits.bytes
        try:
            body = await read_body(Request(scope, receive), most)
            check_json(body, self._limits)
        except ServiceError as error:
            await problems.answer(error)(scope, receive, send)
            return
        except ClientDisconnect:
            problems.log_client_gone(scope)
            return
        await self._app(scope, _replay(body, receive), send)


def _is_read_by_route(path: str) -> bool:
    """Return whether the route at a path reads its body itself: tensors, images and snapshots."""
    return path == SNAPSHOTS or (path.startswith("/v2/models/") and path.endswith("/infer"))


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns a body that was read earlier, and then passes messages on."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
