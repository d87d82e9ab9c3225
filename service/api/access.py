"""Who may call: keys with scopes; without keys, on loopback, only this machine's own pages and programs."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, cast, get_args
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from service.api import problems
from service.api.hosts import check_host
from service.api.session import Sessions
from service.callers import CALLER
from service.errors import ForbiddenError, ServiceError, SettingsError, UnauthenticatedError, UnsupportedError

Scope: TypeAlias = Literal["infer", "read", "admin"]
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORM_TYPES = frozenset({"text/plain", "application/x-www-form-urlencoded"})
"""Content types that any web page may post to any host without asking first."""
SHA256_HEX = 64


@dataclass(frozen=True)
class Keys:
    """Scopes and names by the sha256 of a key; `admin` includes the others, `infer` and `read` stand alone."""

    scopes: Mapping[str, frozenset[Scope]]
    names: Mapping[str, str]

    def granted(self, key: str) -> frozenset[Scope]:
        """Return a key's scopes, without keys all of them; compares with every known key in constant time.

        Raises:
            UnauthenticatedError: If the key is not known.
        """
        if not self.scopes:
            return frozenset(get_args(Scope))
        given = hashlib.sha256(key.encode()).hexdigest()
        found: frozenset[Scope] | None = None
        for digest, scopes in self.scopes.items():
            if hmac.compare_digest(digest, given):
                found = scopes
        if found is None:
            raise UnauthenticatedError("the key is not known; send one as `Authorization: Bearer` or `X-API-Key`")
        return found

    def name(self, key: str) -> str:
        """Return what the keys file calls a known key, or how its digest begins; never the key."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        return f"key {self.names.get(digest) or digest[:8]}"


NO_KEYS = Keys(MappingProxyType({}), MappingProxyType({}))


def read_keys(file: Path | None) -> Keys:
    """Read a keys file: lines of sha256, scopes joined by commas, and a name; `#` begins a comment.

    Raises:
        SettingsError: If the file is missing, holds no key or a line is wrong.
    """
    if file is None:
        return NO_KEYS
    try:
        lines = [line.split("#")[0].split() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise SettingsError(f"the keys file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the keys file {file} is no text") from None
    read = [(*_read_key(file, fields), " ".join(fields[2:])) for fields in lines if fields]
    scopes = {digest: granted for digest, granted, _ in read}
    if not scopes:
        raise SettingsError(f"the keys file {file} holds no key; make one with `acclimate key`")
    return Keys(scopes, {digest: name for digest, _, name in read})


def _read_key(file: Path, fields: list[str]) -> tuple[str, frozenset[Scope]]:
    digest, names = fields[0].lower(), fields[1].split(",") if len(fields) > 1 else []
    if len(digest) != SHA256_HEX or not set(digest) <= set("0123456789abcdef"):
        raise SettingsError(f"{file}: {fields[0][:12]!r}... is no sha256 in hex; make a line with `acclimate key`")
    if not names or not set(names) <= set(get_args(Scope)):
        raise SettingsError(f"{file}: scopes are {','.join(names)!r}, expected some of {','.join(get_args(Scope))}")
    return digest, frozenset(cast("list[Scope]", names))


def check_listening(host: str, keys: Keys, *, insecure: bool) -> None:
    """Refuse to listen beyond loopback without keys.

    Raises:
        SettingsError: Unless the operator insists with `--insecure`.
    """
    if host not in LOOPBACK and not keys.scopes and not insecure:
        raise SettingsError(
            f"refusing to listen on {host} without keys: everyone who reaches the port could change what the model has "
            "learned. Give --keys-file FILE (see `acclimate key`), listen on 127.0.0.1, or insist with --insecure"
        )


def scope_of(method: str, path: str) -> Scope | None:
    """Return the scope that a call needs; None if it is open to all.

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
    """Whether a call only loads the dashboard, or logs in there."""
    return path == "/v1/session" or (method in SAFE and (path == "/" or path.startswith("/dashboard/")))


class Gate:
    """Middleware that lets a request in or answers why not."""

    def __init__(self, app: ASGIApp, keys: Keys, sessions: Sessions, *, trusts_loopback: bool) -> None:
        self._app = app
        self._keys = keys
        self._sessions = sessions
        self._trusts_loopback = trusts_loopback

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Check the request; answer a refusal by the error contract."""
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
        key = given_key(request, self._sessions)
        if not key:
            raise UnauthenticatedError("a key is needed; send it as `Authorization: Bearer` or `X-API-Key`")
        granted = self._keys.granted(key)
        if needed not in granted and "admin" not in granted:
            raise ForbiddenError(f"the key's scopes are {', '.join(sorted(granted))}; this call needs {needed}")
        CALLER.set(self._keys.name(key))


def given_key(request: Request, sessions: Sessions) -> str:
    """Return the key that a request brings, in a header or by the dashboard's cookie; "" without one."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    return key or sessions.key(request)


def _check_same_machine(request: Request) -> None:
    """Refuse what a foreign web page could send to this machine through its user's browser."""
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
    if content_type in FORM_TYPES:
        raise UnsupportedError(f"Content-Type is {content_type}, expected application/json or binary data")


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
