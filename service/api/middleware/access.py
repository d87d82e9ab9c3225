"""Access control: keys with scopes; without keys, on loopback, only this machine's own pages and programs."""

import hashlib
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from service.api import problems
from service.api.host import check_host
from service.api.keys import LOOPBACK, Keys, Scope
from service.api.sessions import Sessions
from service.errors import ForbiddenError, ServiceError, UnauthenticatedError, UnsupportedError
from service.telemetry.caller import CALLER

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORM_TYPES = frozenset({"text/plain", "application/x-www-form-urlencoded"})
"""Content types that any web page may post to any host without a preflight request."""


def scope_of(method: str, path: str) -> Scope | None:
    """Return the scope that a call needs; None if it needs none.

    Example:
        >>> scope_of("POST", "/v2/models/m/infer"), scope_of("GET", "/metrics"), scope_of("POST", "/v1/streams")
        ('infer', 'read', 'admin')
    """
    if path.startswith("/v2/health") or _is_page(method, path):
        return None
    if path == "/v2" or path.startswith("/v2/"):
        return "infer"
    return "read" if method in SAFE else "admin"


def _is_page(method: str, path: str) -> bool:
    """Return whether a call only loads the dashboard, or logs in there."""
    return path == "/v1/session" or (method in SAFE and (path == "/" or path.startswith("/dashboard/")))


class Gate:
    """Middleware that passes a permitted request on, and answers any other with an error."""

    def __init__(self, app: ASGIApp, keys: Keys, sessions: Sessions, *, trusts_loopback: bool) -> None:
        self._app = app
        self._keys = keys
        self._sessions = sessions
        self._trusts_loopback = trusts_loopback

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Check the request, and answer a refusal with the standard error body."""
        if scope["type"] == "http":
            try:
                request = Request(scope)
                check_host(request)
                self._check(request)
            except ServiceError as error:
                await problems.answer(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, request: Request) -> None:
        if self._keys.scopes:
            self._check_key(request)
        elif self._trusts_loopback:
            _check_same_machine(request)

    def _check_key(self, request: Request) -> None:
        needed = scope_of(request.method, request.scope["path"])
        if needed is None:
            return
        digest = key_digest(request, self._sessions)
        if not digest:
            raise UnauthenticatedError("a key is needed; send it as `Authorization: Bearer` or `X-API-Key`")
        granted = self._keys.granted_to(digest)
        if needed not in granted and "admin" not in granted:
            raise ForbiddenError(f"the key's scopes are {', '.join(sorted(granted))}; this call needs {needed}")
        CALLER.set(self._keys.name(digest))


def key_digest(request: Request, sessions: Sessions) -> str:
    """Return the sha256 of the request's key, from a header or the dashboard's cookie; "" if it has none."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    return hashlib.sha256(key.encode()).hexdigest() if key else sessions.digest(request)


REFUSED_ANYWAY = ("/v2/systemsharedmemory/", "/v2/cudasharedmemory/")
"""Paths that answer 404. libcurl's clients post there without a body, and should get that answer."""


def _check_same_machine(request: Request) -> None:
    """Refuse a request that a foreign web page could have sent through a browser on this machine."""
    host = request.headers.get("host", "")
    if _name(f"//{host}") not in LOOPBACK:
        raise ForbiddenError(
            f"Host is {host[:200]!r}, expected a loopback name; without keys only this machine is served"
        )
    if request.method in SAFE:
        return
    origin = request.headers.get("origin")
    if origin is not None and _name(origin) not in LOOPBACK:
        raise ForbiddenError(f"Origin is {origin[:200]!r}: a foreign page may not change streams; give the server keys")
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in FORM_TYPES and not request.scope["path"].startswith(REFUSED_ANYWAY):
        raise UnsupportedError(f"Content-Type is {content_type}, expected application/json or binary data")


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
