"""Bounded retries, after the pause that the server names or else one that doubles each time."""

import time
from collections.abc import Callable
from typing import TypeVar

from service.client.errors import RefusedError, UnreachableError

T = TypeVar("T")
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
UNAVAILABLE = 503


def retried(call: Callable[[], T], retries: int, pause: Callable[[float], None] = time.sleep) -> T:
    """Make a call and return its result. Retry after a lost connection, or a 503 with Retry-After.

    Use it only for idempotent calls, such as inference with a request id.

    Raises:
        RefusedError: If the last try fails, or any try fails for another reason.
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
    """Return whether an error is temporary: a lost connection, or a 503 with Retry-After."""
    if isinstance(error, UnreachableError):
        return True
    return error.status == UNAVAILABLE and error.retry_after_seconds is not None


def pause_seconds(attempt: int, error: RefusedError) -> float:
    """Return the seconds to wait after try number `attempt`, counted from 0.

    Example:
        >>> [pause_seconds(attempt, UnreachableError("")) for attempt in (0, 2, 9)]
        [0.5, 2.0, 10.0]
        >>> pause_seconds(0, RefusedError("full", 503, retry_after_seconds=3.0))
        3.0
    """
    requested = error.retry_after_seconds
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt if requested is None else requested)
