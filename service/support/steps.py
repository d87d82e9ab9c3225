"""A job in steps: a generator whose calls of the store run beside the worker."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Call: TypeAlias = Callable[[], Any]
"""A blocking call of the store."""
Steps: TypeAlias = Generator[Call, Any, T]
"""A job in steps: it runs on the worker, and each call that it yields runs elsewhere while the worker serves others."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A job that waits for a call which does not run on the worker."""

    call: Call


def at_once(job: Callable[[], T]) -> Steps[T]:
    """Return a job without calls of the store as one of a single step."""
    yield from ()
    return job()
