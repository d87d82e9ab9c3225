"""The worker: the only thread that runs PyTorch and ONNX Runtime. Its jobs run in the order of submission."""

import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from service.errors import DeadlineError
from service.support.containment import contained

T = TypeVar("T")
SWITCH_SECONDS = 0.0005
"""Python's thread switch interval. The default of 5 ms delays each wake-up of the event loop during a step: at twice
the load that a server can answer, its median refusal took 68 ms with the default, and takes 9 ms with this."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A running job: its owner, and its start on the monotonic clock."""

    of: str
    since: float


class Worker:
    """Runs jobs on one thread. A job that has started is finished even if its caller is cancelled.

    Attributes:
        threads: PyTorch's number of threads.
        slot: A lock that a stream's job holds from its turn to its end, so that the wait for the worker can be timed.
        busy: The running job, if any.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.slot = asyncio.Lock()
        self.busy: Busy | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="worker", initializer=_prepare, initargs=(threads,))

    async def run(self, job: Callable[[], T], of: str = "", within: float | None = None) -> T:
        """Run a job and return its result. Cancelling the caller does not stop the job.

        Args:
            job: The job.
            of: The job's owner, for people.
            within: Seconds within which the job must start; None for no limit.

        Raises:
            DeadlineError: If the job does not start in time. It will then never run.
            EscapeError: If the job raises an exception that would end the event loop, such as SystemExit.
        """
        context = copy_context()  # so that the worker knows the caller too
        submitted = self._executor.submit(lambda: self._run(partial(context.run, job), of))
        running = asyncio.wrap_future(submitted)
        if within is not None:
            done, _ = await asyncio.wait({running}, timeout=within)
            if not done and submitted.cancel():
                raise DeadlineError(f"the worker is busy{self._owner()}: no turn within {within:g} s; try again")
        return await asyncio.shield(running)

    def stuck(self, seconds: float) -> Busy | None:
        """Return the running job if it has run for longer than `seconds`; otherwise None."""
        busy = self.busy
        return busy if busy is not None and time.monotonic() - busy.since > seconds else None

    def close(self, seconds: float | None = None) -> bool:
        """Finish the submitted jobs, then stop the thread; return False if that takes longer than `seconds`."""
        last = self._executor.submit(lambda: None)
        self._executor.shutdown(wait=False)
        try:
            last.result(seconds)
        except TimeoutError:
            return False
        self._executor.shutdown(wait=True)
        return True

    def _run(self, job: Callable[[], T], of: str) -> T:
        self.busy = Busy(of, time.monotonic())
        try:
            return contained(job)
        finally:
            self.busy = None

    def _owner(self) -> str:
        busy = self.busy
        return f" with {busy.of}" if busy is not None and busy.of else ""


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    sys.setswitchinterval(SWITCH_SECONDS)
