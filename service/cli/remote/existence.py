"""Checks that a stream that a command names is known, where the server answers an empty list for any name."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from service.client import Client

T = TypeVar("T")


def known(client: Client, stream: str, listed: Iterable[T]) -> Iterator[T]:
    """Return what is listed of a stream; where that is nothing, the stream has to be there.

    Snapshots and events outlive their stream, so that a list that is not empty is answer enough.

    Raises:
        RefusedError: If nothing is listed and there is no such stream.
    """
    entries = iter(listed)
    first = list(islice(entries, 1))
    if not first:
        client.stream(stream)
    return chain(first, entries)


def known_to_events(client: Client, stream: str) -> None:
    """Refuse a stream that is not there and that no event is about.

    Raises:
        RefusedError: If there is none.
    """
    known(client, stream, client.events(0, stream))
