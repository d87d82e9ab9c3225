"""Per-stream order and queue bounds: the only place that refuses for load."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from service.errors import BusyError, DeadlineError, FailedError, SaturatedError, ServiceError
from service.streams import Stream
from service.telemetry import Telemetry, log
from service.worker import Worker

T = TypeVar("T")


class Scheduler:
    """Lets each stream's jobs run one after the other, in the order in which they came."""

    def __init__(
        self,
        worker: Worker,
        telemetry: Telemetry,
        *,
        max_queue: int,
        max_queue_per_stream: int,
        deadline_seconds: float,
    ) -> None:
        self._worker = worker
        self._telemetry = telemetry
        self._max_queue = max_queue
        self._max_queue_per_stream = max_queue_per_stream
        self._deadline_seconds = deadline_seconds
        self._depth = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    async def submit(self, stream: Stream, job: Callable[[], T]) -> T:
        """Run a job of a stream on the worker, after the stream's earlier ones.

        Raises:
            SaturatedError: If too many requests wait or the server is stopping.
            BusyError: If too many requests of this stream wait.
            DeadlineError: If its turn does not come in time; nothing has happened then.
        """
        self._admit(stream)
        try:
            return await asyncio.shield(asyncio.ensure_future(self._in_turn(stream, job)))
        except TimeoutError:
            raise DeadlineError(
                f"stream {stream.id!r} is busy: no turn within {self._deadline_seconds:g} s; nothing was changed"
            ) from None

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

    def _admit(self, stream: Stream) -> None:
        self.check_open()
        if stream.waiting >= self._max_queue_per_stream:
            raise BusyError(f"{stream.waiting} requests of stream {stream.id!r} wait, as many as allowed")
        self._move_depth(stream, 1)

    async def _in_turn(self, stream: Stream, job: Callable[[], T]) -> T:
        """Wait and run; shielded, so that a job whose client has gone keeps its place until it is done."""
        try:
            with self._telemetry.queued():
                await self._take_turn(stream)
            try:
                return await self._worker.run(job)
            except ServiceError:
                raise
            except Exception as error:
                log.error("job_failed", stream=stream.id, exc_info=error)
                said = f"stream {stream.id!r} could not be served: {type(error).__name__}; the stream is as it was"
                raise FailedError(said) from error
            finally:
                self._worker.slot.release()
                stream.turn.release()
        finally:
            self._move_depth(stream, -1)

    async def _take_turn(self, stream: Stream) -> None:
        """Wait for the stream's turn and for the worker, no longer than the deadline in all."""
        async with asyncio.timeout(self._deadline_seconds):
            await stream.turn.acquire()
            try:
                await self._worker.slot.acquire()
            except BaseException:
                stream.turn.release()
                raise

    def _move_depth(self, stream: Stream, by: int) -> None:
        stream.waiting += by
        self._depth += by
        self._telemetry.queue_depth.set(self._depth)
        if self._depth:
            self._idle.clear()
        else:
            self._idle.set()
