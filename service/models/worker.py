"""The one thread that runs PyTorch and ONNX Runtime; jobs run in the order in which they are handed in."""

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
"""After which Python lets another thread go on. Its own 5 ms are added to each wake-up of the event loop beside a step:
at twice the load that it can answer, beside other work, a server's median refusal took 68 ms, and takes 9."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A job that runs: whose it is, and since when on the monotonic clock."""

    of: str
    since: float


class Worker:
    """Leaves the event loop once per job; a job that has begun is finished, whoever still waits for it.

    `slot` is held by a stream's job from its turn to its end, so that waiting for the worker can be timed.
    `busy` is the job that runs, if any.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.slot = asyncio.Lock()
        self.busy: Busy | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="worker", initializer=_prepare, initargs=(threads,))

    async def run(self, job: Callable[[], T], of: str = "", within: float | None = None) -> T:
        """Run a job and return what it returns; cancelling the caller does not stop the job.

        Args:
            job: What runs.
            of: Whose job it is, for people.
            within: Seconds within which it must begin; None for however long it takes.

        Raises:
            DeadlineError: If it does not begin in time; it never runs then.
            EscapeError: If it raises what would end the event loop, as SystemExit.
        """
        context = copy_context()  # who calls is known on the worker too
        begun = self._executor.submit(lambda: self._run(partial(context.run, job), of))
        running = asyncio.wrap_future(begun)
        if within is not None:
            done, _ = await asyncio.wait({running}, timeout=within)
            if not done and begun.cancel():
                raise DeadlineError(f"the worker is busy{self._said()}: no turn within {within:g} s; try again")
        return await asyncio.shield(running)

    def stuck(self, seconds: float) -> Busy | None:
        """Return the job that has run for longer than so many seconds, if one has."""
        busy = self.busy
        return busy if busy is not None and time.monotonic() - busy.since > seconds else None

    def close(self, seconds: float | None = None) -> bool:
        """Finish what was handed in, then stop the thread; False if that takes longer than `seconds`."""
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

    def _said(self) -> str:
        busy = self.busy
        return f" with {busy.of}" if busy is not None and busy.of else ""


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    sys.setswitchinterval(SWITCH_SECONDS)
