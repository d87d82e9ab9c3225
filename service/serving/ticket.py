"""A ticket: one job of a stream inside the scheduler, from its arrival to its answer."""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.serving.stream_batching import Shared
from service.streams.stream import Stream
from service.support.containment import contained
from service.support.steps import Call, Done, Failed, Pause, Steps

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """A job of a stream.

    Attributes:
        stream: The job's stream.
        steps: The job. It runs on the worker, with pauses for store calls.
        shared: Its step, if that may be taken together with other streams' steps.
        arrived: Event loop time of its arrival.
        timer: Refuses the job at its deadline; cancelled once the job begins.
        outcome: How far the job has got: its pause, its result or its error. None before it begins. Set on the worker.
        answer: Resolved on the event loop when the job has ended. Cancelled if the caller goes away: the job runs then
            too, and its result is dropped.
        context: The caller's context variables, set on the worker too.
    """

    stream: Stream
    steps: "Steps[T]"
    shared: Shared | None
    arrived: float
    timer: asyncio.TimerHandle | None = None
    outcome: "Pause | Done[T] | Failed | None" = None
    answer: "asyncio.Future[T]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    context: Context = field(default_factory=copy_context)

    @property
    def has_succeeded(self) -> bool:
        """True if the job has run at least up to its first pause, and has raised nothing."""
        return self.outcome is not None and not isinstance(self.outcome, Failed)

    def begin(self) -> None:
        """Run the job up to its first pause or its end, on the worker."""
        self._run(lambda: next(self.steps))

    def resume(self, reply: Done[object] | Failed) -> None:
        """Run the job up to its next pause or its end, on the worker, with the reply to its store call."""
        match reply:
            case Done(result):
                self._run(lambda: self.steps.send(result))
            case Failed(error):
                self._run(lambda: self.steps.throw(error))

    def _run(self, move: Callable[[], Call]) -> None:
        try:
            self.outcome = contained(lambda: self.context.run(self._moved, move))
        except Exception as error:  # noqa: BLE001 - the scheduler raises it in the caller
            self.outcome = Failed(error)

    def _moved(self, move: Callable[[], Call]) -> "Pause | Done[T]":
        try:
            return Pause(move())
        except StopIteration as end:
            returned: T = end.value
            return Done(returned)
