"""Sessions of the dashboard: a key is exchanged for a cookie that scripts cannot read and other sites cannot use."""

import hashlib
import json
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.problems import responses
from service.errors import ForbiddenError, UnauthenticatedError
from service.telemetry.logs import log

COOKIE = "acclimate_session"
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000
MAX_KEY = 512


Check: TypeAlias = Callable[[str], frozenset[str]]
"""Returns a key's scopes; raises UnauthenticatedError for a key that is not known."""
READERS = frozenset({"read", "admin"})
"""Scopes, one of which the dashboard needs."""


class SessionCreate(BaseModel):
    """A key to log in with."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=MAX_KEY)


class SessionView(BaseModel):
    """What the key of a session may do; nothing where there is no session."""

    scopes: list[str]


class Sessions:
    """The keys behind session cookies, for some hours; the oldest leave where there are too many.

    Neither a key nor a token is held: only their sha256. With a file, sessions survive a restart of the server.

    Args:
        file: Where they are kept, readable by its owner alone; None for memory alone.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._digests: OrderedDict[str, tuple[str, float]] = OrderedDict(_read(file))

    def begin(self, key: str) -> str:
        """Return a new session's token."""
        token = secrets.token_urlsafe(32)
        self._digests[_sha256(token)] = (_sha256(key), time.time() + SESSION_SECONDS)
        while len(self._digests) > MAX_SESSIONS:
            self._digests.popitem(last=False)
        self._write()
        return token

    def end(self, token: str) -> None:
        """Forget a session."""
        if self._digests.pop(_sha256(token), None) is not None:
            self._write()

    def digest(self, request: Request) -> str:
        """Return the sha256 of the key behind a cookie; "" without one, from another site's page, or after its time."""
        token = request.cookies.get(COOKIE, "")
        digest, ends = self._digests.get(_sha256(token), ("", 0.0)) if token else ("", 0.0)
        left = ends - time.time()
        # A session that would last longer than any is one that a clock set back has made older than it is.
        return digest if 0 < left <= SESSION_SECONDS and not _is_foreign(request) else ""

    def _write(self) -> None:
        if self._file is None:
            return
        beside = self._file.with_suffix(".new")
        try:
            handle = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                json.dump(list(self._digests.items()), opened)
            os.replace(beside, self._file)
        except OSError as error:
            log.warning("sessions_not_kept", reason=str(error))  # they go on in memory


def _read(file: Path | None) -> list[tuple[str, tuple[str, float]]]:
    if file is None or not file.exists():
        return []
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        return [(str(token), (str(digest), float(ends))) for token, (digest, ends) in read if ends > time.time()]
    except (OSError, ValueError, TypeError) as error:
        log.warning("sessions_not_read", reason=str(error))
        return []


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def router(sessions: Sessions, check: Check, scopes_of: Check) -> APIRouter:
    """Return the session routes; `check` takes a key, `scopes_of` the sha256 of one."""
    routes = APIRouter(prefix="/v1/session", tags=["dashboard"])

    @routes.post("", status_code=204, responses=responses(400, 401, 403, 422))
    async def begin_session(body: SessionCreate, request: Request, response: Response) -> None:
        """Exchange a key for a session cookie."""
        if _is_foreign(request):
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
        """Return what the caller's session may do; all where the server has no keys."""
        try:
            return SessionView(scopes=sorted(scopes_of(sessions.digest(request))))
        except UnauthenticatedError:
            return SessionView(scopes=[])

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
