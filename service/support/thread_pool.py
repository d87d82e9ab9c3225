"""A thread pool for blocking work, separate from the worker's thread and from asyncio's default executor."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """Runs jobs on its own threads, in the order of submission."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, job: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a job and return its result. If the caller is cancelled before the job starts, the job never runs."""
        return await asyncio.wrap_future(self._executor.submit(job, *arguments, **named))

    def close(self) -> None:
        """Cancel the jobs that have not started, and return without waiting for those that run."""
        self._executor.shutdown(wait=False, cancel_futures=True)
