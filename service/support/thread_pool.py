"""A few threads for work that would block the event loop, apart from the worker's and from asyncio's own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """Runs jobs on threads of its own, in the order in which they were handed in."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, job: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a job and return what it returns. One that has not begun when its caller is cancelled never runs."""
        return await asyncio.wrap_future(self._executor.submit(job, *arguments, **named))

    def close(self) -> None:
        """Drop the jobs that have not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
