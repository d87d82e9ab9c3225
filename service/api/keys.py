"""API keys: the keys file, new keys, and the rule that a server without keys listens on loopback only."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, cast, get_args

from service.errors import SettingsError, UnauthenticatedError

Scope: TypeAlias = Literal["infer", "read", "admin"]
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
SHA256_HEX = 64


@dataclass(frozen=True)
class Keys:
    """Scopes and names by the sha256 of a key. `admin` includes the other scopes; `infer` and `read` do not."""

    scopes: Mapping[str, frozenset[Scope]]
    names: Mapping[str, str]

    def granted(self, key: str) -> frozenset[Scope]:
        """Return a key's scopes; all scopes if there are no keys. Compares with every key in constant time.

        Raises:
            UnauthenticatedError: If the key is unknown.
        """
        return self.granted_to(hashlib.sha256(key.encode()).hexdigest())

    def granted_to(self, key_digest: str) -> frozenset[Scope]:
        """Return the scopes of the key with this sha256, as `granted` does."""
        if not self.scopes:
            return frozenset(get_args(Scope))
        found: frozenset[Scope] | None = None
        for digest, scopes in self.scopes.items():
            if hmac.compare_digest(digest, key_digest):
                found = scopes
        if found is None:
            raise UnauthenticatedError("the key is not known; send one as `Authorization: Bearer` or `X-API-Key`")
        return found

    def name(self, digest: str) -> str:
        """Return a name for the key with this sha256: from the keys file, or its first eight digits."""
        return f"key {self.names.get(digest) or digest[:8]}"


NO_KEYS = Keys(MappingProxyType({}), MappingProxyType({}))


def read_keys(file: Path | None) -> Keys:
    """Read a keys file: lines of sha256, scopes joined by commas, and a name; `#` starts a comment.

    Raises:
        SettingsError: If the file is missing, has no key, or has a malformed line.
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
    """Check that a server beyond loopback has keys.

    Raises:
        SettingsError: If it has none and `--insecure` is not set.
    """
    if host not in LOOPBACK and not keys.scopes and not insecure:
        raise SettingsError(
            f"refusing to listen on {host} without keys: everyone who reaches the port could change what the model has "
            "learned. Give --keys-file FILE (see `acclimate key`), listen on 127.0.0.1, or insist with --insecure"
        )


def make_key() -> tuple[str, str]:
    """Return a new key and its sha256 in hex."""
    key = secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def make_first_key(file: Path) -> str | None:
    """Write a keys file with one admin key unless the file exists; return the key, or None if it exists.

    Raises:
        SettingsError: If the file cannot be written.
    """
    key, digest = make_key()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    except OSError as error:
        raise SettingsError(f"the keys file {file} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(f"{digest} admin first\n")
    return key
