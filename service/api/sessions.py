"""Sessions of the dashboard, and the digest of the key behind each cookie."""

import hashlib
import json
import os
import secrets
import time
from collections import OrderedDict
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request

from service.telemetry.logs import log

COOKIE = "acclimate_session"
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000


class Sessions:
    """The keys behind session cookies, for twelve hours. Beyond a thousand sessions the oldest end.

    Keys and tokens are stored only as their sha256. With a file, sessions survive a restart of the server.

    Args:
        file: Stores the sessions, readable by its owner alone; None for memory only.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._digests: OrderedDict[str, tuple[str, float]] = OrderedDict(_read(file))

    def begin(self, key: str) -> str:
        """Start a session with a key, and return its token."""
        token = secrets.token_urlsafe(32)
        self._digests[_sha256(token)] = (_sha256(key), time.time() + SESSION_SECONDS)
        while len(self._digests) > MAX_SESSIONS:
            self._digests.popitem(last=False)
        self._write()
        return token

    def end(self, token: str) -> None:
        """End a session."""
        if self._digests.pop(_sha256(token), None) is not None:
            self._write()

    def digest(self, request: Request) -> str:
        """Return the sha256 of the key behind a cookie; "" without one, from another site, or after its end."""
        token = request.cookies.get(COOKIE, "")
        digest, ends = self._digests.get(_sha256(token), ("", 0.0)) if token else ("", 0.0)
        remaining = ends - time.time()
        # More time left than a whole session means that the clock was set back, so the session's true age is unknown.
        return digest if 0 < remaining <= SESSION_SECONDS and not is_foreign(request) else ""

    def _write(self) -> None:
        if self._file is None:
            return
        temporary = self._file.with_suffix(".new")
        try:
            handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                json.dump(list(self._digests.items()), opened)
            os.replace(temporary, self._file)
        except OSError as error:
            log.warning("sessions_not_kept", reason=str(error))  # they stay valid in memory


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


def is_foreign(request: Request) -> bool:
    """Return whether another site's page sends the request."""
    origin = request.headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    except ValueError:
        return True
