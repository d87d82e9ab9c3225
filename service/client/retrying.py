"""Trying again: a bounded number of times, after a pause that the server names or that doubles."""

import time
from collections.abc import Callable
from typing import TypeVar

from service.client.errors import RefusedError, UnreachableError

T = TypeVar("T")
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
UNAVAILABLE = 503


def retried(call: Callable[[], T], retries: int, pause: Callable[[float], None] = time.sleep) -> T:
    """Return what a call returns; try again where the connection was lost or the server said when to.

    Only for calls that do the same once or twice, as inference with a request id does.

    Raises:
        RefusedError: If the last try is refused, or any in another way.
    """
    for attempt in range(retries):
        try:
            return call()
        except RefusedError as error:
            if not passing(error):
                raise
            pause(pause_seconds(attempt, error))
    return call()


def passing(error: RefusedError) -> bool:
    """Return whether a refusal may be over soon."""
    if isinstance(error, UnreachableError):
        return True
    return error.status == UNAVAILABLE and error.retry_after_seconds is not None


def pause_seconds(attempt: int, error: RefusedError) -> float:
    """Return how long to wait after try number `attempt`, counted from 0.

    Example:
        >>> [pause_seconds(attempt, UnreachableError("")) for attempt in (0, 2, 9)]
        [0.5, 2.0, 10.0]
        >>> pause_seconds(0, RefusedError("full", 503, retry_after_seconds=3.0))
        3.0
    """
    said = error.retry_after_seconds
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt if said is None else said)
