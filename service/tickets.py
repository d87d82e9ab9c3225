"""A ticket: one request that waits inside the scheduler, and what becomes of it."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.grouping import Shared
from service.streams import Stream

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """A job of a stream.

    Attributes:
        stream: Whose it is.
        job: What runs on the worker.
        shared: Its step, where that may be taken with other streams'.
        by: The event loop's time until which it may wait.
        context: Of its caller, who is known on the worker too.
        done: What comes of it, set on the worker.
        waiting: Its wait for the worker, while another stream's job may take it along.
        taken: Whether one has.
    """

    stream: Stream
    job: Callable[[], T]
    shared: Shared | None
    by: float = math.inf
    context: Context = field(default_factory=copy_context)
    done: "Future[T]" = field(default_factory=Future)
    waiting: "asyncio.Task[bool] | None" = None
    taken: bool = False

    def run(self) -> None:
        """Run the job; what it raises is kept for who waits for it."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.context.run(self.job))
        except BaseException as error:  # noqa: BLE001 - the scheduler tells its caller
            self.done.set_exception(error)

    def take_along(self) -> None:
        """End the wait for the worker: another stream's job that has it runs this one too."""
        self.taken = True
        if self.waiting is not None:
            self.waiting.cancel()

    def fail(self, error: BaseException) -> None:
        """Tell who waits that the worker did not run the job."""
        if not self.done.done():
            self.done.set_exception(error)

    async def result(self) -> T:
        """Return what the job has returned, or raise what it has raised."""
        return self.done.result() if self.done.done() else await asyncio.wrap_future(self.done)
