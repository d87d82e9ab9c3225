"""A ticket: one request that waits inside the scheduler, and what becomes of it."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service.serving.stream_batching import Shared
from service.streams.stream import Stream
from service.support.containment import contained
from service.support.steps import Call, Pause, Steps

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """A job of a stream.

    Attributes:
        stream: Whose it is.
        job: What runs on the worker, with pauses.
        shared: Its step, where that may be taken with other streams'.
        by: The event loop's time until which it may wait.
        context: Of its caller, who is known on the worker too.
        done: What comes of it, or its first pause, set on the worker.
        waiting: Its wait for the worker, while another stream's job may take it along.
        taken: Whether one has.
        steps: The job as it runs.
    """

    stream: Stream
    job: Callable[[], "Steps[T]"]
    shared: Shared | None
    by: float = math.inf
    context: Context = field(default_factory=copy_context)
    done: "Future[T | Pause]" = field(default_factory=Future)
    waiting: "asyncio.Task[bool] | None" = None
    taken: bool = False
    steps: "Steps[T]" = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.job()

    @property
    def has_succeeded(self) -> bool:
        """Whether the job has run, up to its first pause at least, and has raised nothing."""
        return self.done.done() and self.done.exception() is None

    def run(self) -> None:
        """Run the job up to its first pause; what it raises is kept for who waits for it."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self._go(lambda: next(self.steps)))
        except Exception as error:  # noqa: BLE001 - the scheduler tells its caller
            self.done.set_exception(error)

    def go_on(self, found: Any) -> "T | Pause":
        """Run the job from its pause on, where its call has returned."""
        return self._go(lambda: self.steps.send(found))

    def fail_on(self, error: Exception) -> "T | Pause":
        """Run the job from its pause on, where its call has failed."""
        return self._go(lambda: self.steps.throw(error))

    def take_along(self) -> None:
        """End the wait for the worker: another stream's job that has it runs this one too."""
        self.taken = True
        if self.waiting is not None:
            self.waiting.cancel()

    def fail(self, error: BaseException) -> None:
        """Tell who waits that the worker did not run the job."""
        if not self.done.done():
            self.done.set_exception(error)

    async def result(self) -> "T | Pause":
        """Return what the job has returned or waits for, or raise what it has raised."""
        return self.done.result() if self.done.done() else await asyncio.wrap_future(self.done)

    def _go(self, move: Callable[[], Call]) -> "T | Pause":
        def moved() -> "T | Pause":
            try:
                return Pause(move())
            except StopIteration as end:
                returned: T = end.value
                return returned

        return contained(lambda: self.context.run(moved))
