"""How often a caller may call: one token bucket per key, or per client address where there are no keys."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.middleware.access import given_digest, scope_of
from service.api.sessions import Sessions
from service.errors import BusyError
from service.support.token_bucket import Buckets

HEALTH = "/v2/health"


class RateLimit:
    """Middleware that answers 429 to a caller who calls more often than `rate` times a second."""

    def __init__(self, app: ASGIApp, sessions: Sessions, *, keyed: bool, rate: float, burst_seconds: float) -> None:
        self._app = app
        self._sessions = sessions
        self._keyed = keyed
        self._rate = rate
        self._buckets = Buckets(rate, burst_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer when to come again; health is never refused."""
        if scope["type"] == "http" and self._rate and not scope["path"].startswith(HEALTH):
            seconds = self._buckets.take(self._caller(Request(scope)))
            if seconds:
                said = f"more than {self._rate:g} requests a second came from this caller, as many as allowed"
                await problems.answer(BusyError(said, seconds))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _caller(self, request: Request) -> str:
        """Return the digest of the caller's key, or the address: there are none, or none is checked at this path."""
        checked = self._keyed and scope_of(request.method, request.scope["path"]) is not None
        digest = given_digest(request, self._sessions) if checked else ""
        return digest or (request.client.host if request.client else "")
