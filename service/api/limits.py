"""How often a caller may call: one token bucket per key, or per client address where there are no keys."""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.access import given_key
from service.api.session import Sessions
from service.errors import BusyError

MAX_BUCKETS = 10_000
"""Callers remembered at a time; the one not seen for longest is forgotten, and begins with a full bucket."""
HEALTH = "/v2/health"


class Buckets:
    """Token buckets by name: each fills by `rate` a second, up to `burst_seconds` of it and one token at least."""

    def __init__(self, rate: float, burst_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate * burst_seconds)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        now = self._clock()
        tokens, since = self._buckets.pop(name, (self._size, now))
        tokens = min(self._size, tokens + (now - since) * self._rate)
        taken = tokens >= 1
        self._buckets[name] = (tokens - taken, now)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / self._rate

    def __len__(self) -> int:
        return len(self._buckets)


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
                response = problems.answer(BusyError(said))
                response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _caller(self, request: Request) -> str:
        """Return the digest of the caller's key, so that keys are not kept, or the address."""
        key = given_key(request, self._sessions) if self._keyed else ""
        if key:
            return hashlib.sha256(key.encode()).hexdigest()
        return request.client.host if request.client else ""
