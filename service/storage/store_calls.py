"""Calls of the store, off the event loop and the worker, each within a time limit."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from service.errors import StoreDownError

T = TypeVar("T")
SECONDS = 10.0
"""Time limit of a call where no setting says otherwise."""
THREADS = 8
"""Calls that run at a time. Calls that never return keep theirs, so that others then wait in vain, but no thread more
is made for them."""


class StoreCalls:
    """Runs blocking calls of the store on threads of its own.

    Args:
        seconds: How long a caller waits for its call, the wait for a thread included.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="store")

    async def run(self, call: Callable[[], T]) -> T:
        """Return what a call returns.

        Raises:
            StoreDownError: If it takes too long. One that has begun goes on; whether it takes effect is not known then.
        """
        begun = self._executor.submit(copy_context().run, call)
        running = asyncio.wrap_future(begun)
        done, _ = await asyncio.wait({running}, timeout=self.seconds)
        if done:
            return running.result()
        begun.cancel()
        running.add_done_callback(_ignore)
        raise StoreDownError(
            f"the store does not answer: no reply within {self.seconds:g} s; send the request again, with the same id "
            f"if it has one"
        )

    def close(self) -> None:
        """Take no more calls; those that hang are left alone."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _ignore(running: "asyncio.Future[T]") -> None:
    """Take note of the outcome of a call that nobody waits for any more."""
    if not running.cancelled():
        running.exception()
