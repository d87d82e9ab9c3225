"""Request bodies, read no further than their bound."""

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import TooLargeError


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body.

    Raises:
        TooLargeError: As soon as it is known to hold more than `max_bytes`.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise TooLargeError(f"the body has {declared} bytes, expected at most {max_bytes}")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise TooLargeError(f"the body has more than {max_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


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
