"""A ticket: one request that waits inside the scheduler, and its result."""

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
        stream: The job's stream.
        job: Runs on the worker, with pauses for store calls.
        shared: Its step, if that may be taken together with other streams' steps.
        by: Event loop time until the job may wait.
        context: The caller's context variables, set on the worker too.
        done: Its result or its first pause, set on the worker.
        waiting: Its wait for the worker, while another stream's job may take it along.
        taken: True once another job has taken it along.
        steps: The running job.
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
        """True if the job has run at least up to its first pause, and has raised nothing."""
        return self.done.done() and self.done.exception() is None

    def run(self) -> None:
        """Run the job up to its first pause. An error is kept for the caller that waits for the result."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self._go(lambda: next(self.steps)))
        except Exception as error:  # noqa: BLE001 - the scheduler raises it in its caller
            self.done.set_exception(error)

    def go_on(self, found: Any) -> "T | Pause":
        """Resume the job with the result of its store call."""
        return self._go(lambda: self.steps.send(found))

    def fail_on(self, error: Exception) -> "T | Pause":
        """Resume the job with the error of its store call."""
        return self._go(lambda: self.steps.throw(error))

    def take_along(self) -> None:
        """Cancel the wait for the worker: the job that has the worker runs this one too."""
        self.taken = True
        if self.waiting is not None:
            self.waiting.cancel()

    def fail(self, error: BaseException) -> None:
        """Report to the waiting caller that the worker did not run the job."""
        if not self.done.done():
            self.done.set_exception(error)

    async def result(self) -> "T | Pause":
        """Return the job's result or its first pause, or raise its error."""
        return self.done.result() if self.done.done() else await asyncio.wrap_future(self.done)

    def _go(self, move: Callable[[], Call]) -> "T | Pause":
        def moved() -> "T | Pause":
            try:
                return Pause(move())
            except StopIteration as end:
                returned: T = end.value
                return returned

        return contained(lambda: self.context.run(moved))
