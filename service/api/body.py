"""Request bodies, read no further than their bound."""

from fastapi import Request

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
