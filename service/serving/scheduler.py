"""The one loop that runs the jobs of all streams: each stream's in order, and shared steps as one."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

from service.errors import DeadlineError, FailedError, ServiceError
from service.models.worker import Worker
from service.serving.admission import Admission
from service.serving.stream_batching import Groups, Kind, Shared
from service.serving.suspects import Suspects
from service.serving.ticket import Ticket
from service.serving.turns import Turns
from service.storage.store_calls import StoreCalls
from service.streams.stream import Stream
from service.support.containment import EscapeError
from service.support.steps import Call, Done, Failed, Pause, Steps, at_once
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry

T = TypeVar("T")


class Scheduler:
    """Runs each stream's jobs one after another on the worker, in order of arrival.

    A job that the loop takes brings along waiting jobs of other streams that can share its step. The loop never waits
    for a group to fill. A job that a full group leaves out waits for one more step.

    Args:
        worker: Runs the jobs.
        admission: Counts the jobs, and refuses those that are too many.
        telemetry: Shows how long jobs wait.
        groups: Takes the steps of several jobs as one.
        store: Runs the jobs' store calls.
        deadline_seconds: Longest wait of a job.
        suspects: Knows the streams whose steps must run alone.
    """

    def __init__(
        self,
        worker: Worker,
        admission: Admission,
        telemetry: Telemetry,
        groups: Groups,
        store: StoreCalls,
        *,
        deadline_seconds: float,
        suspects: Suspects | None = None,
    ) -> None:
        self.admission = admission
        self._worker = worker
        self._waits = telemetry.queue_seconds
        self._groups = groups
        self._store = store
        self._suspects = suspects or Suspects()
        self._turns = Turns(self._kind, groups.room)
        self._deadline_seconds = deadline_seconds
        self._loop: asyncio.Task[None] | None = None
        self._pauses: set[asyncio.Task[None]] = set()

    async def submit(
        self, stream: Stream, job: Callable[[], T], shared: Shared | None = None, by: float = math.inf
    ) -> T:
        """Run a job on the worker, after the stream's earlier jobs.

        If the caller is cancelled, the job keeps its place and runs.

        Args:
            stream: The job's stream.
            job: The function to run.
            shared: The job's step, if it may be taken together with other streams' steps.
            by: Event loop time after which a job that has not begun is refused. The server's deadline applies too.

        Raises:
            SaturatedError: If too many requests wait or the server is stopping.
            BusyError: If too many requests of this stream wait.
            DeadlineError: If the job's turn does not come in time. Nothing has changed then.
            FailedError: If the job raises an error that is not a refusal.
        """
        return await self.submit_steps(stream, lambda: at_once(job), shared, by)

    async def submit_steps(
        self, stream: Stream, job: Callable[[], Steps[T]], shared: Shared | None = None, by: float = math.inf
    ) -> T:
        """Run a job in steps. Each call that it yields runs on the store, while the worker serves other streams.

        The stream's next job waits until the last step is done. Raises as `submit` does.
        """
        self.admission.enter(stream)
        ticket = Ticket(stream, job(), shared, asyncio.get_running_loop().time())
        self._turns.enter(ticket)
        self._limit_wait(ticket, by)
        self._ensure_loop()
        return await ticket.answer

    async def run_outside_turns(self, job: Callable[[], T], of: str = "") -> T:
        """Run a job on the worker outside any stream's turn. The server's deadline applies.

        Raises:
            DeadlineError: If the job does not begin in time.
        """
        return await self._worker.run(job, of, self._deadline_seconds)

    def _limit_wait(self, ticket: Ticket[Any], by: float) -> None:
        """Refuse a ticket that has not begun by a time, or within the server's deadline."""
        deadline = ticket.arrived + self._deadline_seconds
        due, limit = min((by, "the request's timeout"), (deadline, f"{self._deadline_seconds:g} s"))
        if due > ticket.arrived:
            ticket.timer = ticket.answer.get_loop().call_at(due, self._expire, ticket, limit)
        else:
            self._expire(ticket, limit)

    def _ensure_loop(self) -> None:
        """Start the loop if a job can run and the loop has ended."""
        if self._loop is None and self._turns.any_ready():
            self._loop = asyncio.create_task(self._serve(), context=Context())  # no caller's context: it serves many

    async def _serve(self) -> None:
        """Run jobs until none is ready: the next one in turn, together with those that can share its step."""
        try:
            while self._turns.any_ready():
                async with self._worker.slot:  # probes take it too
                    tickets = self._turns.take()
                    if tickets:  # the last ones may have expired while a probe ran
                        await self._serve_together(tickets)
        finally:
            self._loop = None

    async def _serve_together(self, tickets: Sequence[Ticket[Any]]) -> None:
        """Run jobs on the worker, each up to its first pause or its end. Each goes on once its own part is done."""
        for each in tickets:
            self._stop_waiting(each)
        try:
            await self._worker.run(lambda: self._run(tickets), _stream_names(tickets))
        except Exception as error:  # noqa: BLE001 - the loop must go on; the error goes to the callers
            for each in tickets:
                if each.outcome is None:
                    each.outcome = Failed(error)
                    self._go_on(each)

    def _run(self, tickets: Sequence[Ticket[Any]]) -> None:
        """Take the steps as one, then run each stream's job by itself. Runs on the worker."""
        with self._suspects.running(tickets):
            if len(tickets) > 1:
                self._groups.take([each.shared for each in tickets if each.shared is not None])
            for each in tickets:
                each.begin()
                each.answer.get_loop().call_soon_threadsafe(self._go_on, each)

    def _go_on(self, ticket: Ticket[Any]) -> None:
        """End a job that has run, or start the store call for which it has paused."""
        if not isinstance(ticket.outcome, Pause):
            self._end(ticket)
            return
        task = asyncio.create_task(self._call_store(ticket), context=ticket.context.copy())
        self._pauses.add(task)
        task.add_done_callback(self._pauses.discard)

    async def _call_store(self, ticket: Ticket[Any]) -> None:
        """Run a job's store calls outside the worker, and the rest of the job on the worker, up to its end."""
        try:
            while isinstance(ticket.outcome, Pause):
                reply = await self._reply(ticket.outcome.call)
                await self._worker.run(partial(self._resume, ticket, reply), _stream_names([ticket]))
        except Exception as error:  # noqa: BLE001 - the caller gets the error
            ticket.outcome = Failed(error)
        self._end(ticket)

    async def _reply(self, call: Call) -> Done[Any] | Failed:
        try:
            return Done(await self._store.run(call))
        except Exception as error:  # noqa: BLE001 - the error goes to the job, which decides
            return Failed(error)

    def _resume(self, ticket: Ticket[Any], reply: Done[Any] | Failed) -> None:
        with self._suspects.running([ticket]):
            ticket.resume(reply)

    def _expire(self, ticket: Ticket[Any], limit: str) -> None:
        """Refuse a job that has not begun."""
        self._stop_waiting(ticket)
        message = f"stream {ticket.stream.id!r} is busy: no turn within {limit}; nothing was changed"
        ticket.outcome = Failed(DeadlineError(message))
        self._end(ticket)

    def _stop_waiting(self, ticket: Ticket[Any]) -> None:
        """Record the wait of a job that begins or has expired."""
        if ticket.timer is not None:
            ticket.timer.cancel()
        self._waits.observe(ticket.answer.get_loop().time() - ticket.arrived)

    def _end(self, ticket: Ticket[Any]) -> None:
        """Pass the turn to the stream's next job, and give the caller the result or the error."""
        self._turns.leave(ticket)
        self._ensure_loop()  # it has ended if only this stream's jobs waited, for a store call
        self.admission.leave(ticket.stream)
        match ticket.outcome:
            case Done(result):
                self._suspects.settle(ticket.stream)
                if not ticket.answer.done():  # cancelled with its caller
                    ticket.answer.set_result(result)
            case Failed(error):
                refusal = _refusal(ticket.stream, error)
                if not ticket.answer.done():
                    ticket.answer.set_exception(refusal)

    def _kind(self, ticket: Ticket[Any]) -> Kind | None:
        """Return the kind of steps that a job can share, or None. A step that may end the process runs alone."""
        if ticket.shared is None or self._suspects.is_suspect(ticket.stream.id):
            return None
        return self._groups.kind(ticket.shared)


def _refusal(stream: Stream, error: Exception) -> ServiceError:
    """Return the error for the caller. The details of a failure stay in the log."""
    if isinstance(error, ServiceError):
        return error
    log.error("job_failed", stream=stream.id, exc_info=error)
    name = type(error.__cause__ if isinstance(error, EscapeError) else error).__name__
    failed = FailedError(f"stream {stream.id!r} could not be served: {name}; the stream is as it was")
    failed.__cause__ = error
    return failed


def _stream_names(tickets: Sequence[Ticket[Any]]) -> str:
    """Name the streams of a job, for logs and errors."""
    others = f" and {len(tickets) - 1} others" if len(tickets) > 1 else ""
    return f"stream {tickets[0].stream.id!r}{others}"
