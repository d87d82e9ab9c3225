"""Checks that a named stream exists, for lists that the server answers with [] for any name."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from service.client import Client

T = TypeVar("T")


def checked(client: Client, stream: str, listed: Iterable[T]) -> Iterator[T]:
    """Return the entries listed for a stream. If there are none, check that the stream exists.

    Snapshots and events outlive their stream, so any entry shows that the stream exists or existed.

    Raises:
        RefusedError: If nothing is listed and there is no such stream.
    """
    entries = iter(listed)
    first = list(islice(entries, 1))
    if not first:
        client.stream(stream)
    return chain(first, entries)


def check_has_events(client: Client, stream: str) -> None:
    """Check that a stream exists or that the log has an event about it.

    Raises:
        RefusedError: If neither is true.
    """
    checked(client, stream, client.events(0, stream))
