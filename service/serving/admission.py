"""Admission: counts the requests that wait or run, and refuses those that are too many."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from service.errors import BusyError, SaturatedError
from service.streams.stream import Stream
from service.telemetry.metrics import Telemetry


class Admission:
    """The limits of the queue. Only this class refuses requests for load.

    Args:
        telemetry: Shows the number of requests.
        max_queue: Most requests that wait or run.
        max_queue_per_stream: The same for each stream.

    Attributes:
        draining: True once all new requests are refused.
    """

    def __init__(self, telemetry: Telemetry, *, max_queue: int, max_queue_per_stream: int) -> None:
        self._gauge = telemetry.queue_depth
        self._max_queue = max_queue
        self._max_queue_per_stream = max_queue_per_stream
        self._depth = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def enter(self, stream: Stream | None) -> None:
        """Count a request; without a stream, towards the total alone.

        Raises:
            SaturatedError: If too many requests wait or the server is stopping.
            BusyError: If too many requests of this stream wait.
        """
        self.check_open()
        if stream is not None and stream.waiting >= self._max_queue_per_stream:
            raise BusyError(f"{stream.waiting} requests of stream {stream.id!r} wait, as many as allowed")
        self._move_depth(stream, 1)

    def leave(self, stream: Stream | None) -> None:
        """Stop counting a request that has entered."""
        self._move_depth(stream, -1)

    @contextmanager
    def place(self, stream: Stream | None) -> Iterator[None]:
        """Count work that comes before a job. Raises as `enter` does."""
        self.enter(stream)
        try:
            yield
        finally:
            self.leave(stream)

    def check_open(self) -> None:
        """Check that the server takes new streams and requests.

        Raises:
            SaturatedError: If the server is full or stopping.
        """
        if self.draining:
            raise SaturatedError("the server is stopping and takes no new requests")
        if self._depth >= self._max_queue:
            raise SaturatedError(f"{self._depth} requests wait, as many as allowed")

    async def idle(self, seconds: float) -> None:
        """Wait until no request waits or runs, at most `seconds`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        self.draining = True

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for those that wait or run; return False if some are left after `seconds`."""
        self.refuse()
        await self.idle(seconds)
        return self._idle.is_set()

    def _move_depth(self, stream: Stream | None, by: int) -> None:
        if stream is not None:
            stream.waiting += by
        self._depth += by
        self._gauge.set(self._depth)
        if self._depth:
            self._idle.clear()
        else:
            self._idle.set()
