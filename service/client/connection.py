"""The connection to one server: it sends requests, and turns refusals and lost connections into errors."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from service.client.errors import RefusedError, UnreachableError


class Connection:
    """Sends requests to one server."""

    def __init__(self, url: str, key: str | None, timeout_seconds: float) -> None:
        _check(url)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_seconds)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def send(self, method: str, path: str, **settings: Any) -> httpx.Response:
        """Send one request.

        Raises:
            RefusedError: If the server refuses it.
            UnreachableError: If no server answers.
        """
        with self._transport_errors():
            response = self._http.request(method, path, **settings)
        if response.is_error:
            raise _refusal(response)
        return response

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str], **settings: Any) -> Iterator[httpx.Response]:
        """Open a streamed response, and close it after the block.

        Raises:
            RefusedError: If the server refuses the request.
            UnreachableError: If no server answers, or the connection is lost within the block.
        """
        request = self._http.stream("GET", path, headers=dict(headers), **settings)
        with self._transport_errors(), request as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield response

    @contextmanager
    def _transport_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnreachableError(f"no server answers at {self._http.base_url}: {_text_of(error)}") from None


def _check(url: str) -> None:
    """Check that a URL is the address of an HTTP server.

    Raises:
        UnreachableError: If it is not.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise UnreachableError(f"the server's address is {url!r} ({error}), expected http://HOST:PORT") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise UnreachableError(f"the server's address is {url!r}, expected http://HOST:PORT")


def _text_of(error: Exception) -> str:
    """Return an error's text without its errno."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or "it does not answer in time"


def _refusal(response: httpx.Response) -> RefusedError:
    return RefusedError(_reason(response), response.status_code, _seconds(response.headers.get("Retry-After")))


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code} without a reason; expected an Acclimate server there"


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
