"""Live events by server-sent events; after a lost connection they resume at the last event received."""

import time
from collections.abc import Callable, Iterable, Iterator

from service.client.connection import Connection
from service.client.errors import RefusedError, UnreachableError
from service.client.retrying import passing, pause_seconds
from service.views.events import EventView

PATH = "/v1/events/live"
SILENCE_SECONDS = 60.0
"""A connection silent for this long counts as lost; the server sends a comment every 15 seconds."""


def follow(
    connection: Connection,
    after: int,
    stream: str | None,
    retries: int,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[EventView]:
    """Yield the events after an id, until the server is gone.

    Args:
        connection: The connection to the server.
        after: The id of the last event that is already known.
        stream: Yield only this stream's events.
        retries: How often in a row to reconnect after a lost connection. A first connection that fails is not retried.
        pause: Sleeps for a number of seconds between two tries.

    Raises:
        RefusedError: If the server refuses, or cannot be reached again.
    """
    connected, failures = False, 0
    while True:
        try:
            for event in _listen(connection, after, stream):
                connected, failures = True, 0
                if event is not None:
                    after = event.id
                    yield event
            lost: RefusedError = UnreachableError("the server ended the stream of events")
        except RefusedError as error:
            if not (connected and passing(error)):
                raise
            lost = error
        if failures == retries:
            raise lost
        pause(pause_seconds(failures, lost))
        failures += 1


def _listen(connection: Connection, after: int, stream: str | None) -> Iterator[EventView | None]:
    """Yield None once connected, then the events."""
    headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
    params = {} if stream is None else {"stream": stream}
    with connection.stream(PATH, headers, params=params, timeout=SILENCE_SECONDS) as response:
        yield None
        for data in messages(response.iter_lines()):
            yield EventView.read(data)


def messages(lines: Iterable[str]) -> Iterator[str]:
    r"""Yield the data of server-sent events; comments and other fields are skipped.

    Example:
        >>> list(messages([": ping", "", "id: 4", "data: {", "data: }", "", "data: cut off"]))
        ['{\n}']
    """
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
