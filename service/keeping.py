"""Keeps streams: `sync` ones before they answer, `periodic` ones behind the traffic, all when the server stops."""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from service.changes import Changes
from service.checkpoints import Checkpoints, Taken, record_of, take
from service.errors import FencedError, ServiceError, UnfitError
from service.recording import Recorder
from service.retries import Answered
from service.streams import Claim, Stream, StreamTable
from service.telemetry import Telemetry, log
from service.types import Happening
from service.worker import Worker

LOOK_SECONDS = 0.5
"""How often it is looked for streams whose time has come."""
AT_A_TIME = 64
"""Streams kept in one transaction."""
FENCED = "was taken over by another process: it is fenced here, and nothing was changed; send it there, or try again"


class Keeper:
    """Writes what streams have learned to the store.

    Args:
        checkpoints: The store.
        table: The streams.
        worker: Where streams change, and are taken.
        recorder: Where it is told.
        telemetry: Where it is counted.
        steps, seconds: After how many generations and seconds a `periodic` stream is kept.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        table: StreamTable,
        worker: Worker,
        recorder: Recorder,
        telemetry: Telemetry,
        steps: int,
        seconds: float,
    ) -> None:
        self.checkpoints = checkpoints
        self._table = table
        self._worker = worker
        self._recorder = recorder
        self._checkpoints = telemetry.checkpoints
        self._steps = steps
        self._seconds = seconds
        self._changed = Changes()
        self._writing: dict[str, threading.Event] = {}
        self._under_way: set[asyncio.Future[list[Taken]]] = set()
        self._wake = asyncio.Event()

    def append(self, stream: Stream, *new: Answered, always: bool = False) -> None:
        """Make what a `sync` stream is now durable; on the worker, in its turn. `always`: of any that is not ephemeral.

        Raises:
            FencedError: If another process has taken the stream over; this one has let it go.
            StoreFullError: If there is no room.
            StoreDownError: If the store does not answer.
        """
        wanted = stream.durability == "sync" or (always and stream.durability == "periodic")
        if not wanted or (stream.claim is not None and stream.claim.mark == stream.mark):
            return
        self._wait_for_write(stream)
        claims = self.checkpoints.write([take(stream, *new)])
        if stream.id not in claims:
            raise UnfitError(f"stream {stream.id!r} cannot be kept: its state holds NaN or infinity; reset it")
        claim = claims[stream.id]
        if claim is None:
            self._lose(stream)
            raise FencedError(f"stream {stream.id!r} {FENCED}")
        self._checkpoints.labels("kept").inc()
        _settle(stream, claim)

    def note(self, stream: Stream, *, soon: bool = False) -> None:
        """Plan to keep a stream; on the event loop, after a request or, `soon`, after an operator's call."""
        if self._table.find(stream.id) is not stream:
            return
        enrolled = stream.claim is not None and stream.durability == "ephemeral"
        if not enrolled and (stream.claim is None or stream.claim.mark != stream.mark):
            self._changed[stream.id] = stream
            if soon or stream.generation - stream.durable_generation >= self._steps:
                self._changed.hasten(stream.id)
                self._wake.set()

    def stays(self, stream: Stream) -> None:
        """Keep a stream anew that was kept for its rest and goes on: it may go beyond the generation kept."""
        if stream.claim is not None:
            stream.claim = replace(stream.claim, mark=())
            self.note(stream, soon=True)

    def forget(self, stream: Stream) -> None:
        """Remove an ended stream from the store; on the worker, in its turn.

        Raises:
            FencedError: If another process has taken it over; its state there stays.
        """
        self._wait_for_write(stream)  # it may be the one that enrols the stream
        self._changed.drop(stream.id)
        if stream.claim is not None and not self.checkpoints.catalogue.remove(stream.id, stream.claim.epoch):
            self._lose(stream)
            raise FencedError(f"stream {stream.id!r} {FENCED}")

    async def run(self) -> None:
        """Keep streams whose time has come, until cancelled; what cannot be written waits for the next time."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            due = [stream for stream in self._changed.values() if self._is_due(stream)]
            for start in range(0, len(due), AT_A_TIME):
                try:
                    await self.keep(due[start : start + AT_A_TIME])
                except Exception as error:  # noqa: BLE001 - a store's failure must not end the keeping
                    self._checkpoints.labels("failed").inc(len(due[start : start + AT_A_TIME]))
                    log.error("streams_not_kept", streams=len(due), reason=str(error))
                    await asyncio.sleep(LOOK_SECONDS)

    async def keep(self, streams: Iterable[Stream], *, final: bool = False) -> list[Taken]:
        """Keep streams as they are; return what was kept.

        Raises:
            ServiceError: If the store cannot take them.
        """
        writing = asyncio.ensure_future(self._write({stream.id: stream for stream in streams}, final=final))
        self._under_way.add(writing)
        writing.add_done_callback(self._under_way.discard)
        return await asyncio.shield(writing)  # a write that has begun is finished, whoever still waits for it

    async def _write(self, there: Mapping[str, Stream], *, final: bool) -> list[Taken]:
        taken = await self._worker.run(lambda: self._take(there.values(), final=final))
        try:
            claims = await asyncio.to_thread(self.checkpoints.write, taken)
            for each in taken:
                self._kept(there[each.stream.id], each, claims)
        finally:
            for each in taken:
                self._writing.pop(each.stream.id).set()
        return taken

    def _wait_for_write(self, stream: Stream) -> None:
        """Wait for another thread's write of a stream; on the worker, which that write needs no more."""
        under_way = self._writing.get(stream.id)
        if under_way is not None:
            under_way.wait()

    def _take(self, streams: Iterable[Stream], *, final: bool) -> list[Taken]:
        """Take streams that are there and that nobody else is writing; on the worker."""
        free = [
            stream for stream in streams if self._table.find(stream.id) is stream and stream.id not in self._writing
        ]
        self._writing |= {stream.id: threading.Event() for stream in free}
        return [take(stream, final=final) for stream in free]

    def _kept(self, stream: Stream, taken: Taken, claims: Mapping[str, Claim | None]) -> None:
        self._changed.calm(stream.id)
        if stream.id not in claims:
            stream.kept = time.time()  # it is tried again when its time comes
            return
        claim = claims[stream.id]
        if claim is None:
            self._lose(stream)
            return
        self._checkpoints.labels("kept").inc()
        _settle(stream, claim, taken.stream.generation)
        if stream.mark == claim.mark or stream.durability == "ephemeral":
            self._changed.drop(stream.id)

    async def close(self) -> int:
        """Keep all streams that are to be kept, for the next start; return how many were."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
        streams = [stream for stream in self._table if stream.durability != "ephemeral"]
        kept = 0
        for start in range(0, len(streams), AT_A_TIME):
            some = streams[start : start + AT_A_TIME]
            try:
                kept += len(await self.keep(some, final=True))
            except (ServiceError, OSError) as error:
                log.error("streams_not_kept", streams=[stream.id for stream in some], reason=str(error))
        return kept

    def _is_due(self, stream: Stream) -> bool:
        if stream.durability == "ephemeral":
            return stream.claim is None
        urgent = self._changed.is_urgent(stream.id)
        return urgent or stream.claim is None or time.time() - stream.kept >= self._seconds

    def _lose(self, stream: Stream) -> None:
        """Let a stream go that is another process's now."""
        self._changed.drop(stream.id)
        self._checkpoints.labels("fenced").inc()
        if self._table.find(stream.id) is stream:
            if stream.claim is None:
                self._table.delete(stream.id)
            else:
                self._table.rest(record_of(stream, stream.claim))
            self._recorder.tell(stream, Happening("fenced", "another process has taken the stream over"))


def _settle(stream: Stream, claim: Claim, generation: int | None = None) -> None:
    stream.claim = claim
    stream.durable_generation = stream.generation if generation is None else generation
    stream.kept = time.time()
