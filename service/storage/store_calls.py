"""Store calls, run outside the event loop and the worker, each within a time limit."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from service.errors import StoreDownError

T = TypeVar("T")
SECONDS = 10.0
"""Default time limit of a call."""
THREADS = 8
"""Calls that run at a time. Calls that never return keep their threads. Others may then wait in vain, but no more
threads are created."""


class StoreCalls:
    """Runs blocking calls of the store on separate threads.

    Args:
        seconds: How long a caller waits for its call, including the wait for a thread.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="store")

    async def run(self, call: Callable[[], T]) -> T:
        """Return a call's result.

        Raises:
            StoreDownError: If it takes too long. A call that has begun goes on, and may still take effect.
        """
        submitted = self._executor.submit(copy_context().run, call)
        running = asyncio.wrap_future(submitted)
        done, _ = await asyncio.wait({running}, timeout=self.seconds)
        if done:
            return running.result()
        submitted.cancel()
        running.add_done_callback(_ignore)
        raise StoreDownError(
            f"the store does not answer: no reply within {self.seconds:g} s; send the request again, with the same id "
            f"if it has one"
        )

    def close(self) -> None:
        """Accept no more calls. Calls that hang are left alone."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _ignore(running: "asyncio.Future[T]") -> None:
    """Retrieve the outcome of a call that nobody waits for, so that asyncio does not warn about it."""
    if not running.cancelled():
        running.exception()
