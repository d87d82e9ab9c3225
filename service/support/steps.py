"""Jobs in steps: generators that run on the worker, while the store calls that they yield run elsewhere."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Call: TypeAlias = Callable[[], Any]
"""A blocking call to the store."""
Steps: TypeAlias = Generator[Call, Any, T]
"""A job in steps. It runs on the worker; the worker serves other jobs while each call that it yields runs elsewhere."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Suspends a job until a call has finished that runs outside the worker."""

    call: Call


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The end of a job or of a store call, with its result."""

    result: T


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a job or of a store call, with its error."""

    error: Exception


def at_once(job: Callable[[], T]) -> Steps[T]:
    """Return a job that makes no store calls as a job of a single step."""
    yield from ()
    return job()
