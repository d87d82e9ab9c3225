"""Per-stream order, queue bounds and groups of streams: the only place that refuses for load."""

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
    """Lets each stream's jobs run one after the other, in the order in which they came.

    A job that gets the worker takes along those of other streams that wait for it and may share its step: nobody waits
    for a group to fill, and a job passed over by one waits for one step more.
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
        """Run a job of a stream on the worker, after the stream's earlier ones.

        Args:
            stream: Whose job it is.
            job: What runs.
            shared: The step that the job will take, where other streams' may be taken with it.
            by: The event loop's time at which the job is refused unless it has begun; the server's deadline holds too.

        Raises:
            SaturatedError: If too many requests wait or the server is stopping.
            BusyError: If too many requests of this stream wait.
            DeadlineError: If its turn does not come in time; nothing has happened then.
        """
        return await self._submit(Ticket(stream, lambda: at_once(job), shared, by))

    async def submit_steps(
        self, stream: Stream, job: Callable[[], Steps[T]], shared: Shared | None = None, by: float = math.inf
    ) -> T:
        """Run a job in steps: what it yields runs as a call of the store, while the worker serves other streams.

        The stream's next job waits until all of it is done. Raises as `submit` does.
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
        """Take a place in the queue's bounds for work that comes before a job; without a stream, in those of all alone.

        Raises:
            SaturatedError: If too many requests wait or the server is stopping.
            BusyError: If too many requests of this stream wait.
        """
        self._admit(stream)
        try:
            yield
        finally:
            self._move_depth(stream, -1)

    async def beside(self, job: Callable[[], T], of: str = "") -> T:
        """Run a job on the worker that is in no stream's turn; in time, as the others.

        Raises:
            DeadlineError: If it does not begin in time.
        """
        return await self._worker.run(job, of, self._deadline_seconds)

    async def idle(self, seconds: float) -> None:
        """Wait until no request waits or runs, but no longer than `seconds`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    def check_open(self) -> None:
        """Refuse new streams and jobs while the server is full or stopping.

        Raises:
            SaturatedError: If it is.
        """
        if self.draining:
            raise SaturatedError("the server is stopping and takes no new requests")
        if self._depth >= self._max_queue:
            raise SaturatedError(f"{self._depth} requests wait, as many as allowed")

    def refuse(self) -> None:
        """Take no new jobs from now on."""
        self.draining = True

    async def drain(self, seconds: float) -> bool:
        """Refuse new jobs and wait for those under way; False if some are left after `seconds`."""
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
        """Wait and run; shielded, so that a job whose client has gone keeps its place until it is done."""
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
        """Return what a job returns in the end; the calls that it waits for run beside the worker."""
        found = await ticket.result()
        while isinstance(found, Pause):
            found = await self._after(ticket, found.call)
        return found

    async def _after(self, ticket: Ticket[T], call: Call) -> T | Pause:
        of = _said([ticket])
        try:
            returned = await self._store.run(call)
        except Exception as error:  # noqa: BLE001 - the job is told, and decides
            failed = error
            return await self._worker.run(lambda: ticket.fail_on(failed), of)
        return await self._worker.run(lambda: self._gone_on(ticket, returned), of)

    def _gone_on(self, ticket: Ticket[T], returned: Any) -> T | Pause:
        with self._suspects.marked(ticket.stream.id):
            return ticket.go_on(returned)

    async def _run(self, ticket: Ticket[T]) -> None:
        """Run a job, with those that share its step, on the worker that it has got."""
        tickets = [ticket]
        try:
            tickets += self._others(ticket)
            await self._worker.run(lambda: self._run_all(tickets), _said(tickets))
        except Exception as error:
            for each in tickets:
                each.fail(error)
            raise
        finally:
            self._worker.slot.release()

    def _run_all(self, tickets: list[Ticket[Any]]) -> None:
        """Take the steps as one, then finish each stream's job by itself; on the worker."""
        with self._suspects.running(tickets):
            if len(tickets) > 1:
                self._groups.take([each.shared for each in tickets if each.shared is not None])
            for each in tickets:
                each.run()

    def _others(self, ticket: Ticket[Any]) -> list[Ticket[Any]]:
        """Take along, in the order in which they came, those that wait for the worker and may share a job's step."""
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
        """Return what a job can share its step with; None for nothing, as where the step may end the process."""
        if ticket.shared is None or self._suspects.is_suspect(ticket.stream.id):
            return None
        return self._groups.kind(ticket.shared)

    async def _take_turn(self, ticket: Ticket[Any]) -> bool:
        """Wait for the stream's turn and for the worker, no longer than the deadline in all.

        Returns whether the job has got the worker; if not, a job that has it took this one along.
        """
        now = asyncio.get_running_loop().time()
        if now >= ticket.by:  # a lock that is free is taken without a look at the clock
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
            if ticket.taken:  # even if the deadline has come at the same moment
                return False
            if not waiting.cancelled():  # it came too late, but it came
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


def _said(tickets: Sequence[Ticket[Any]]) -> str:
    """Name the streams of a job, for people."""
    others = f" and {len(tickets) - 1} others" if len(tickets) > 1 else ""
    return f"stream {tickets[0].stream.id!r}{others}"
