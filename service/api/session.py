"""Sessions of the dashboard: a key is exchanged for a cookie that scripts cannot read and other sites cannot use."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.problems import responses
from service.errors import ForbiddenError

COOKIE = "acclimate_session"
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000
MAX_KEY = 512


Check: TypeAlias = Callable[[str], object]
"""Raises UnauthenticatedError for a key that is not known."""


class SessionCreate(BaseModel):
    """A key to log in with."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=MAX_KEY)


class Sessions:
    """The keys behind session cookies, for some hours, in memory alone; the oldest leave where there are too many."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def begin(self, key: str) -> str:
        """Return a new session's token."""
        token = secrets.token_urlsafe(32)
        self._keys[token] = (key, time.monotonic() + SESSION_SECONDS)
        while len(self._keys) > MAX_SESSIONS:
            self._keys.popitem(last=False)
        return token

    def end(self, token: str) -> None:
        """Forget a session."""
        self._keys.pop(token, None)

    def key(self, request: Request) -> str:
        """Return the key behind a request's cookie; "" without one, from another site's page, or after its time."""
        key, ends = self._keys.get(request.cookies.get(COOKIE, ""), ("", 0.0))
        return key if time.monotonic() < ends and not _is_foreign(request) else ""


def router(sessions: Sessions, check: Check) -> APIRouter:
    """Return the session routes."""
    routes = APIRouter(prefix="/v1/session", tags=["dashboard"])

    @routes.post("", status_code=204, responses=responses(400, 401, 403, 422))
    async def begin_session(body: SessionCreate, request: Request, response: Response) -> None:
        """Exchange a key for a session cookie."""
        if _is_foreign(request):
            raise ForbiddenError("another site's page may not log in here")
        check(body.key)
        response.set_cookie(
            COOKIE,
            sessions.begin(body.key),
            max_age=int(SESSION_SECONDS),
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    @routes.delete("", status_code=204)
    async def end_session(request: Request, response: Response) -> None:
        """End the session of the cookie."""
        sessions.end(request.cookies.get(COOKIE, ""))
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    return routes


def _is_foreign(request: Request) -> bool:
    """Whether a page of another site sends the request."""
    origin = request.headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    except ValueError:
        return True
