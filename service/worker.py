"""The one thread that runs PyTorch and ONNX Runtime; jobs run in the order in which they are handed in."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

T = TypeVar("T")
SWITCH_SECONDS = 0.0005
"""After which Python lets another thread go on. Its own 5 ms are added to each wake-up of the event loop beside a step:
at twice the load that it can answer, beside other work, a server's median refusal took 68 ms, and takes 9."""


class Worker:
    """Leaves the event loop once per job; a job that has begun is finished, whoever still waits for it.

    `slot` is held by a stream's job from its turn to its end, so that waiting for the worker can be timed.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.slot = asyncio.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="worker", initializer=_prepare, initargs=(threads,))

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job and return what it returns; cancelling the caller does not stop the job."""
        context = copy_context()  # who calls is known on the worker too
        running = asyncio.get_running_loop().run_in_executor(self._executor, lambda: context.run(job))
        return await asyncio.shield(running)

    def close(self) -> None:
        """Finish what was handed in, then stop the thread."""
        self._executor.shutdown(wait=True)


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    sys.setswitchinterval(SWITCH_SECONDS)
