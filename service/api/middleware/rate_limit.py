"""Limits the request rate: one token bucket per key, or per client address if there are no keys."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.middleware.access import key_digest, scope_of
from service.api.sessions import Sessions
from service.errors import BusyError
from service.support.token_bucket import Buckets

HEALTH = "/v2/health"


class RateLimit:
    """Middleware that answers 429 to a caller that sends more than `rate` requests a second."""

    def __init__(self, app: ASGIApp, sessions: Sessions, *, keyed: bool, rate: float, burst_seconds: float) -> None:
        self._app = app
        self._sessions = sessions
        self._keyed = keyed
        self._rate = rate
        self._buckets = Buckets(rate, burst_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429 with the time to wait. Health checks are never refused."""
        if scope["type"] == "http" and self._rate and not scope["path"].startswith(HEALTH):
            seconds = self._buckets.take(self._caller(Request(scope)))
            if seconds:
                said = f"more than {self._rate:g} requests a second came from this caller, as many as allowed"
                await problems.answer(BusyError(said, seconds))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _caller(self, request: Request) -> str:
        """Return the digest of the caller's key; the client's address if no key is given or checked for this path."""
        checked = self._keyed and scope_of(request.method, request.scope["path"]) is not None
        digest = key_digest(request, self._sessions) if checked else ""
        return digest or (request.client.host if request.client else "")
