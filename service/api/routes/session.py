"""Sessions of the dashboard: a key is exchanged for a cookie that scripts cannot read and other sites cannot use."""

from collections.abc import Callable
from typing import TypeAlias

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.problems import responses
from service.api.sessions import COOKIE, SESSION_SECONDS, Sessions, is_foreign
from service.errors import ForbiddenError, UnauthenticatedError

MAX_KEY = 512


Check: TypeAlias = Callable[[str], frozenset[str]]
"""Returns a key's scopes; raises UnauthenticatedError if the key is unknown."""
READERS = frozenset({"read", "admin"})
"""Scopes that allow the dashboard; one of them suffices."""


class SessionCreate(BaseModel):
    """A key to log in with."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=MAX_KEY)


class SessionView(BaseModel):
    """The scopes of a session's key; empty without a session."""

    scopes: list[str]


def router(sessions: Sessions, check: Check, scopes_of: Check) -> APIRouter:
    """Return the session routes. `check` takes a key, `scopes_of` its sha256."""
    routes = APIRouter(prefix="/v1/session", tags=["dashboard"])

    @routes.post("", status_code=204, responses=responses(400, 401, 403, 413, 415, 422))
    async def begin_session(body: SessionCreate, request: Request, response: Response) -> None:
        """Exchange a key for a session cookie."""
        if is_foreign(request):
            raise ForbiddenError("another site's page may not log in here")
        granted = check(body.key)
        if not granted & READERS:
            raise ForbiddenError(
                f"the key's scopes are {', '.join(sorted(granted))}; the dashboard needs one with read or admin"
            )
        response.set_cookie(
            COOKIE,
            sessions.begin(body.key),
            max_age=int(SESSION_SECONDS),
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    @routes.get("")
    async def session(request: Request) -> SessionView:
        """The scopes of the caller's session; all scopes if the server has no keys."""
        try:
            return SessionView(scopes=sorted(scopes_of(sessions.digest(request))))
        except UnauthenticatedError:
            return SessionView(scopes=[])

    @routes.delete("", status_code=204)
    async def end_session(request: Request, response: Response) -> None:
        """End the cookie's session."""
        sessions.end(request.cookies.get(COOKIE, ""))
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    return routes
