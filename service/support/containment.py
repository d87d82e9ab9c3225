"""Exceptions that would end a thread, a task or the event loop, as a failure of the code that raised them."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
BREAKING = (StopIteration, StopAsyncIteration)
"""Exceptions that futures and generators do not hand on."""


class EscapeError(Exception):
    """Code of a model raised what is not meant for the server, as SystemExit; the cause is what it raised."""


def contained(job: Callable[[], T]) -> T:
    """Run a job; what it raises is an ordinary exception.

    Raises:
        EscapeError: If the job raises SystemExit, KeyboardInterrupt, CancelledError, StopIteration or the like.
    """
    try:
        return job()
    except BREAKING as error:
        raise EscapeError(f"it raised {type(error).__name__}") from error
    except Exception:
        raise
    except BaseException as error:
        raise EscapeError(f"it raised {type(error).__name__}") from error
