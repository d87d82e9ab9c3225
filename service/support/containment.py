"""Containment: exceptions that would end a thread, a task or the event loop become ordinary ones."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
BREAKING = (StopIteration, StopAsyncIteration)
"""Exceptions that futures and generators do not propagate unchanged."""


class EscapeError(Exception):
    """A model's code raised an exception that would stop the server, such as SystemExit. `__cause__` holds it."""


def contained(job: Callable[[], T]) -> T:
    """Run a job and return its result. Ordinary exceptions pass through unchanged.

    Raises:
        EscapeError: If the job raises StopIteration, StopAsyncIteration, or an exception that is not an `Exception`,
            such as SystemExit, KeyboardInterrupt or CancelledError.
    """
    try:
        return job()
    except BREAKING as error:
        raise EscapeError(f"it raised {type(error).__name__}") from error
    except Exception:
        raise
    except BaseException as error:
        raise EscapeError(f"it raised {type(error).__name__}") from error
