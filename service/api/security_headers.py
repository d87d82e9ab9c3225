"""Security headers for browsers."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
    }
)
POLICY = "default-src 'none'; frame-ancestors 'none'"


class SecurityHeaders:
    """Middleware that adds the security headers that an answer does not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the headers to its answer."""

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = list(message.get("headers", ()))
                names = {name for name, _ in present}
                path = scope["path"]
                added = (header for header in _raw(_is_data(path)) if header[0] not in names)
                message = {**message, "headers": [*present, *added]}
            await send(message)

        await self._app(scope, receive, hardened if scope["type"] == "http" else send)


def headers_of(path: str) -> dict[str, str]:
    """Return the headers for answers at a path."""
    return _headers(_is_data(path))


def _is_data(path: str) -> bool:
    """Return whether a path's answers are data, which browsers must not store."""
    return path.startswith(("/v1", "/v2"))


def _headers(data: bool) -> dict[str, str]:
    stored = {"Cache-Control": "no-store"} if data else {}
    return {**HEADERS, "Content-Security-Policy": POLICY, **stored}


@cache
def _raw(data: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers in ASGI's form."""
    return tuple((name.lower().encode(), value.encode()) for name, value in _headers(data).items())
