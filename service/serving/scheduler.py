"""The order of each stream's jobs, the limits of the queue, and steps shared by several streams."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from service.errors import BusyError, DeadlineError, FailedError, SaturatedError, ServiceError
from service.models.worker import Worker
from service.serving.stream_batching import Groups, Kind, Shared
from service.serving.suspects import Suspects
from service.serving.ticket import Ticket
from service.storage.store_calls import StoreCalls
from service.streams.stream import Stream
from service.support.containment import EscapeError
from service.support.steps import Call, Pause, Steps, at_once
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry

T = TypeVar("T")


class Scheduler:
    """Runs each stream's jobs one after another, in order of arrival. Only this class refuses requests for load.

    A job that gets the worker takes along waiting jobs of other streams that can share its step. Nobody waits for a
    group to fill. A job that a full group leaves out waits for one more step.
    """

    def __init__(
        self,
        worker: Worker,
        telemetry: Telemetry,
        groups: Groups,
        store: StoreCalls,
        *,
        max_queue: int,
        max_queue_per_stream: int,
        deadline_seconds: float,
        suspects: Suspects | None = None,
    ) -> None:
        self._worker = worker
        self._telemetry = telemetry
        self._groups = groups
        self._store = store
        self._suspects = suspects or Suspects()
        self._sharing: dict[Kind, list[Ticket[Any]]] = {}
        self._max_queue = max_queue
        self._max_queue_per_stream = max_queue_per_stream
        self._deadline_seconds = deadline_seconds
        self._depth = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    async def submit(
        self, stream: Stream, job: Callable[[], T], shared: Shared | None = None, by: float = math.inf
    ) -> T:
        """Run a job on the worker, after the stream's earlier jobs.

        Args:
            stream: The job's stream.
            job: The function to run.
            shared: The job's step, if it may be taken together with other streams' steps.
            by: Event loop time after which a job that has not begun is refused. The server's deadline applies too.

        Raises:
            SaturatedError: If too many requests wait or the server is stopping.
            BusyError: If too many requests of this stream wait.
            DeadlineError: If the job's turn does not come in time. Nothing has changed then.
        """
        return await self._submit(Ticket(stream, lambda: at_once(job), shared, by))

    async def submit_steps(
        self, stream: Stream, job: Callable[[], Steps[T]], shared: Shared | None = None, by: float = math.inf
    ) -> T:
        """Run a job in steps. Each call that it yields runs on the store, while the worker serves other streams.

        The stream's next job waits until the last step is done. Raises as `submit` does.
        """
        return await self._submit(Ticket(stream, job, shared, by))

    async def _submit(self, ticket: Ticket[T]) -> T:
        self._admit(ticket.stream)
        try:
            return await asyncio.shield(asyncio.ensure_future(self._in_turn(ticket)))
        except TimeoutError:
            expired = asyncio.get_running_loop().time() >= ticket.by
            limit = "the request's timeout" if expired else f"{self._deadline_seconds:g} s"
            raise DeadlineError(
                f"stream {ticket.stream.id!r} is busy: no turn within {limit}; nothing was changed"
            ) from None

    @contextmanager
    def place(self, stream: Stream | None) -> Iterator[None]:
        """Count work that comes before a job towards the queue's limits; without a stream, towards the total alone.

        Raises:
            SaturatedError: If too many requests wait or the server is stopping.
            BusyError: If too many requests of this stream wait.
        """
        self._admit(stream)
        try:
            yield
        finally:
            self._move_depth(stream, -1)

    async def run_outside_turns(self, job: Callable[[], T], of: str = "") -> T:
        """Run a job on the worker outside any stream's turn. The server's deadline applies.

        Raises:
            DeadlineError: If the job does not begin in time.
        """
        return await self._worker.run(job, of, self._deadline_seconds)

    async def idle(self, seconds: float) -> None:
        """Wait until no request waits or runs, at most `seconds`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    def check_open(self) -> None:
        """Check that the server takes new streams and jobs.

        Raises:
            SaturatedError: If the server is full or stopping.
        """
        if self.draining:
            raise SaturatedError("the server is stopping and takes no new requests")
        if self._depth >= self._max_queue:
            raise SaturatedError(f"{self._depth} requests wait, as many as allowed")

    def refuse(self) -> None:
        """Refuse new jobs from now on."""
        self.draining = True

    async def drain(self, seconds: float) -> bool:
        """Refuse new jobs and wait for running ones; return False if some still run after `seconds`."""
        self.refuse()
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _admit(self, stream: Stream | None) -> None:
        self.check_open()
        if stream is not None and stream.waiting >= self._max_queue_per_stream:
            raise BusyError(f"{stream.waiting} requests of stream {stream.id!r} wait, as many as allowed")
        self._move_depth(stream, 1)

    async def _in_turn(self, ticket: Ticket[T]) -> T:
        """Wait for the turn and run. The caller shields this, so a job whose client is gone keeps its place."""
        stream = ticket.stream
        try:
            with self._telemetry.queued():
                has_worker = await self._take_turn(ticket)
            try:
                if has_worker:
                    await self._run(ticket)
                found = await self._all_of(ticket)
                self._suspects.settle(stream)
                return found
            except ServiceError:
                raise
            except Exception as error:
                log.error("job_failed", stream=stream.id, exc_info=error)
                name = type(error.__cause__ if isinstance(error, EscapeError) else error).__name__
                said = f"stream {stream.id!r} could not be served: {name}; the stream is as it was"
                raise FailedError(said) from error
            finally:
                stream.turn.release()
        finally:
            self._move_depth(stream, -1)

    async def _all_of(self, ticket: Ticket[T]) -> T:
        """Return a job's final result. The store calls that it yields run outside the worker."""
        found = await ticket.result()
        while isinstance(found, Pause):
            found = await self._after(ticket, found.call)
        return found

    async def _after(self, ticket: Ticket[T], call: Call) -> T | Pause:
        of = _stream_names([ticket])
        try:
            returned = await self._store.run(call)
        except Exception as error:  # noqa: BLE001 - the error goes to the job, which decides
            failed = error
            return await self._worker.run(lambda: ticket.fail_on(failed), of)
        return await self._worker.run(lambda: self._gone_on(ticket, returned), of)

    def _gone_on(self, ticket: Ticket[T], returned: Any) -> T | Pause:
        with self._suspects.marked(ticket.stream.id):
            return ticket.go_on(returned)

    async def _run(self, ticket: Ticket[T]) -> None:
        """Run a job, and the jobs that share its step, on the worker; the caller has acquired its slot."""
        tickets = [ticket]
        try:
            tickets += self._others(ticket)
            await self._worker.run(lambda: self._run_all(tickets), _stream_names(tickets))
        except Exception as error:
            for each in tickets:
                each.fail(error)
            raise
        finally:
            self._worker.slot.release()

    def _run_all(self, tickets: list[Ticket[Any]]) -> None:
        """Take the steps as one, then finish each stream's job by itself. Runs on the worker."""
        with self._suspects.running(tickets):
            if len(tickets) > 1:
                self._groups.take([each.shared for each in tickets if each.shared is not None])
            for each in tickets:
                each.run()

    def _others(self, ticket: Ticket[Any]) -> list[Ticket[Any]]:
        """Take along the jobs that wait for the worker and can share this job's step, in order of arrival."""
        if ticket.shared is None or not self._sharing:
            return []
        kind = self._kind(ticket)
        there = [] if kind is None else self._sharing.get(kind, [])
        waiting = [each for each in there if each.waiting is not None and not each.waiting.done()]
        others = waiting[: self._groups.room(ticket.shared)]
        for each in others:
            each.take_along()
        return others

    def _kind(self, ticket: Ticket[Any]) -> Kind | None:
        """Return the kind of steps that a job can share, or None. A step that may end the process runs alone."""
        if ticket.shared is None or self._suspects.is_suspect(ticket.stream.id):
            return None
        return self._groups.kind(ticket.shared)

    async def _take_turn(self, ticket: Ticket[Any]) -> bool:
        """Wait for the stream's turn and for the worker, no longer than the deadline in all.

        Returns True if the job got the worker, False if another job took it along.
        """
        now = asyncio.get_running_loop().time()
        if now >= ticket.by:  # checked here, since acquiring a free lock would not check the time
            raise TimeoutError
        async with asyncio.timeout_at(min(now + self._deadline_seconds, ticket.by)):
            await ticket.stream.turn.acquire()
            try:
                return await self._take_worker(ticket)
            except BaseException:
                ticket.stream.turn.release()
                raise

    async def _take_worker(self, ticket: Ticket[Any]) -> bool:
        slot = self._worker.slot
        kind = self._kind(ticket) if slot.locked() else None
        if kind is None:
            return await slot.acquire()
        waiting = ticket.waiting = asyncio.ensure_future(slot.acquire())
        there = self._sharing.setdefault(kind, [])
        there.append(ticket)
        try:
            return await waiting
        except asyncio.CancelledError:
            if ticket.taken:  # also if the deadline passed at the same moment
                return False
            if not waiting.cancelled():  # the slot was acquired although nobody waits for it any more
                slot.release()
            raise
        finally:
            there.remove(ticket)
            if not there:
                self._sharing.pop(kind, None)

    def _move_depth(self, stream: Stream | None, by: int) -> None:
        if stream is not None:
            stream.waiting += by
        self._depth += by
        self._telemetry.queue_depth.set(self._depth)
        if self._depth:
            self._idle.clear()
        else:
            self._idle.set()


def _stream_names(tickets: Sequence[Ticket[Any]]) -> str:
    """Name the streams of a job, for logs and errors."""
    others = f" and {len(tickets) - 1} others" if len(tickets) > 1 else ""
    return f"stream {tickets[0].stream.id!r}{others}"
