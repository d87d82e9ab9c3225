"""Connects a command to its server, with its key."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.cli.remote.errors import MistakeError
from service.client import Client, RefusedError, UnreachableError

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "ACCLIMATE_KEY"
TIMEOUT_SECONDS = 60.0
UNAUTHENTICATED = 401


@contextmanager
def reach(url: str, key_file: Path | None, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Client]:
    """Yield a client of a server. Errors about reaching it or about its key say how to name them.

    Raises:
        RefusedError: If the server refuses, or none answers.
        MistakeError: If the key file has no key.
    """
    with Client(address(url), read_key(key_file), timeout_seconds) as client:
        try:
            yield client
        except UnreachableError as error:
            advice = "start one with `acclimate serve`, or name another by --url or ACCLIMATE_URL"
            raise UnreachableError(f"{error}; {advice}") from None
        except RefusedError as error:
            if error.status != UNAUTHENTICATED:
                raise
            raise RefusedError(f"{error}; here: by {KEY_VARIABLE} or --key-file FILE", error.status) from None


def address(url: str) -> str:
    """Return a URL with a scheme; http by default.

    Example:
        >>> address("localhost:8000"), address("https://models.example")
        ('http://localhost:8000', 'https://models.example')
    """
    return url if "://" in url else f"http://{url}"


def read_key(file: Path | None) -> str | None:
    """Return the key from a file, else from the environment, else None.

    Raises:
        MistakeError: If the file cannot be read, or does not hold exactly one key.
    """
    if file is None:
        return _checked(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE) or None
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MistakeError(f"the key file {file} cannot be read: {error}") from None
    if not text.strip():
        raise MistakeError(f"the key file {file} is empty; expected the key that `acclimate key` printed")
    return _checked(text, f"the key file {file}")


def _checked(text: str, place: str) -> str:
    key = text.strip()
    if not key.isascii() or len(key.split()) > 1:
        raise MistakeError(f"{place} holds more than a key; expected the one word after `key:` of `acclimate key`")
    return key
