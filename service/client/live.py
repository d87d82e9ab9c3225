"""Events as they come: server-sent events, resumed after the last one seen where the connection is lost."""

import time
from collections.abc import Callable, Iterable, Iterator

from service.client.connection import Connection
from service.client.errors import RefusedError, UnreachableError
from service.client.retrying import passing, pause_seconds
from service.client.views import EventView

PATH = "/v1/events/live"
SILENCE_SECONDS = 60.0
"""Without a word for so long the connection counts as lost; the server sends a comment every 15."""


def follow(
    connection: Connection,
    after: int,
    stream: str | None,
    retries: int,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[EventView]:
    """Yield the events after an id, for as long as the server lives.

    Args:
        connection: To the server.
        after: The id of the last event that is known already.
        stream: One stream's events alone.
        retries: How often in a row a lost connection is taken up again; the first one is not.
        pause: Waits between two tries.

    Raises:
        RefusedError: If the server refuses, or does not come back.
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
    """Yield None when connected, then events."""
    headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
    params = {} if stream is None else {"stream": stream}
    with connection.stream(PATH, headers, params=params, timeout=SILENCE_SECONDS) as response:
        yield None
        for data in messages(response.iter_lines()):
            yield EventView.model_validate_json(data)


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
