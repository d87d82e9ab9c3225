"""Keeps streams: `sync` ones before they answer, `periodic` ones behind the traffic, all when the server stops."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from service.errors import FencedError, ServiceError
from service.models.worker import Worker
from service.storage.changed_streams import Changes
from service.storage.checkpoints import Checkpoints, Taken, Written, record_of, take
from service.storage.ended_answers import LAST, EndedAnswers
from service.storage.recorder import Recorder
from service.storage.store_calls import StoreCalls
from service.streams.idempotency import Answered, RequestIdentity
from service.streams.stream import Claim, Stream
from service.streams.table import StreamTable
from service.support.steps import Steps
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry
from service.types import Happening, InferResponse

LOOK_SECONDS = 0.5
"""How often it is looked for streams whose time has come."""
AGAIN_SECONDS = 1.0
"""How long a stream waits that could not be kept, before it is tried again."""
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
        calls: Runs the calls of the store.
        steps, seconds: After how many generations and seconds a `periodic` stream is kept.
        ended: Where the last answers of streams that have ended are.
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
        ended: EndedAnswers | None = None,
        calls: StoreCalls | None = None,
    ) -> None:
        self.ended = ended or EndedAnswers(0.0, 0)
        self.checkpoints = checkpoints
        self._table = table
        self._worker = worker
        self._recorder = recorder
        self._checkpoints = telemetry.checkpoints
        self._steps = steps
        self._seconds = seconds
        self._calls = calls or StoreCalls()
        self._worker_hangs = False
        self._changed = Changes()
        self._writing: dict[str, threading.Event] = {}
        self._under_way: set[asyncio.Future[list[Taken]]] = set()
        self._wake = asyncio.Event()

    def append(self, stream: Stream, *new: Answered, always: bool = False) -> Steps[None]:
        """Make what a `sync` stream is now durable; on the worker, in its turn. `always`: of any that is not ephemeral.

        The write itself is a call beside the worker.

        Raises:
            FencedError: If another process has taken the stream over; this one has let it go.
            StoreFullError: If there is no room.
            StoreDownError: If the store does not answer.
        """
        wanted = stream.durability == "sync" or (always and stream.durability == "periodic")
        if not wanted or _is_kept(stream):
            return
        with (yield from self._alone(stream)):
            written = yield partial(self.checkpoints.write, [take(stream, *new)])
        if stream.id in written.failed:
            raise written.failed[stream.id]
        if stream.id in written.lost:
            self._lose(stream)
            raise FencedError(f"stream {stream.id!r} {FENCED}")
        self._checkpoints.labels("kept").inc()
        _settle(stream, written.claims[stream.id])

    def note(self, stream: Stream, *, soon: bool = False) -> None:
        """Plan to keep a stream; on the event loop, after a request or, `soon`, after an operator's call."""
        if self._table.find(stream.id) is not stream:
            return
        if self._is_wanted(stream):
            self._changed[stream.id] = stream
            if soon or stream.generation - stream.durable_generation >= self._steps:
                self._changed.hasten(stream.id)
                self._wake.set()

    def is_writing(self, stream_id: str) -> bool:
        """Whether a write of a stream is under way."""
        return stream_id in self._writing

    def stays(self, stream: Stream) -> None:
        """Keep a stream anew that was kept for its rest and goes on: it may go beyond the generation kept."""
        if stream.claim is not None:
            stream.claim = replace(stream.claim, mark=())
            self.note(stream, soon=True)

    def forget(self, stream: Stream) -> Steps[None]:
        """Remove a stream from the store, with its answers; on the worker, in its turn.

        Raises:
            FencedError: If another process has taken it over; its state there stays.
        """
        yield from self._remove(stream, [])

    def end(self, stream: Stream, *new: Answered) -> Steps[None]:
        """Remove a stream that a client has ended, and keep its last answers; on the worker, in its turn.

        `new` are answers under way. Those of a `sync` stream are durable once this returns.

        Raises:
            FencedError: If another process has taken it over; its state there stays.
        """
        last = (*stream.retries.entries(), *new)[-LAST:]
        yield from self._remove(stream, last if stream.durability == "sync" else [])
        self.ended.keep(stream.id, last)

    async def answer_of_ended(
        self, stream_id: str, identity: RequestIdentity, *, sharded: bool
    ) -> InferResponse | None:
        """Return what a stream that has ended answered to a request; None if that is not known.

        Raises:
            ConflictError: If the request's idempotency key was used for another body.
        """
        answered = self.ended.find(stream_id, identity)
        if answered is None and sharded:  # another process may have ended it
            there = await self._calls.run(partial(self.checkpoints.ended, self.ended.seconds, stream_id))
            for name, answers in there.items():
                self.ended.keep(name, answers)
            answered = self.ended.find(stream_id, identity)
        return answered

    def remember_ended(self) -> None:
        """Read the answers of streams that have ended before this process began."""
        self.forget_ended()
        for stream_id, answers in self.checkpoints.ended(self.ended.seconds).items():
            self.ended.keep(stream_id, answers)

    def forget_ended(self) -> None:
        """Remove answers of ended streams from the store that are too old or too many."""
        self.checkpoints.catalogue.forget_ended(self.ended.seconds, self.ended.limit_bytes)

    def _remove(self, stream: Stream, last: Sequence[Answered]) -> Steps[None]:
        with (yield from self._alone(stream)):  # a write under way may be the one that enrols the stream
            in_store = stream.claim is not None or stream.unsettled
            removed = (yield partial(self.checkpoints.remove, stream, last)) if in_store else True
        if not removed:
            self._lose(stream)
            raise FencedError(f"stream {stream.id!r} {FENCED}")
        self._changed.drop(stream.id)

    async def run(self) -> None:
        """Keep streams whose time has come, until cancelled; what cannot be written waits for the next time."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            due = self._due()
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
        for stream_id in there:
            self._changed.calm(stream_id)  # what is noted from here on may come too late for this write
        taking = partial(self._take, there.values(), final=final)
        taken = taking() if self._worker_hangs else await self._worker.run(taking)
        written = Written({}, set(), {})
        try:
            written = await self._calls.run(partial(self.checkpoints.write, taken))
        finally:
            for each in taken:
                self._written(there[each.stream.id], each, written)
            for each in taken:
                self._writing.pop(each.stream.id).set()
        return [each for each in taken if each.stream.id in written.claims]

    def _alone(self, stream: Stream) -> Steps[AbstractContextManager[None]]:
        """Wait until nobody writes a stream, and keep others from it until the block ends. On the worker.

        The worker alone marks streams as being written, so that no two do so at once.
        """
        while (under_way := self._writing.get(stream.id)) is not None:
            yield under_way.wait
        self._writing[stream.id] = threading.Event()
        return self._until_written(stream.id)

    @contextmanager
    def _until_written(self, stream_id: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._writing.pop(stream_id).set()

    def _take(self, streams: Iterable[Stream], *, final: bool) -> list[Taken]:
        """Take streams that are there and that nobody else is writing; on the worker, unless that hangs at the stop.

        A stream whose job hangs is taken as it was before that job.
        """
        free = [
            stream for stream in streams if self._table.find(stream.id) is stream and stream.id not in self._writing
        ]
        self._writing |= {stream.id: threading.Event() for stream in free}
        return [_taken(stream, final=final) for stream in free]

    def _written(self, stream: Stream, taken: Taken, written: Written) -> None:
        if stream.id in written.lost:
            self._lose(stream)
        elif stream.id in written.claims:
            self._kept(stream, taken, written.claims[stream.id])
        else:
            self._not_kept(stream, written.failed.get(stream.id))

    def _kept(self, stream: Stream, taken: Taken, claim: Claim) -> None:
        self._checkpoints.labels("kept").inc()
        _settle(stream, claim, taken.stream.generation)
        if stream.mark == claim.mark or stream.durability == "ephemeral":
            self._changed.drop(stream.id)

    def _not_kept(self, stream: Stream, error: Exception | None) -> None:
        """Plan to try again; one that failed for a reason of its own waits, and makes way for those not tried yet."""
        if self._table.find(stream.id) is stream:
            self._changed[stream.id] = stream
        if error is not None:
            self._checkpoints.labels("failed").inc()
            log.error("stream_not_kept", stream=stream.id, reason=str(error))
            self._changed.delay(stream.id, AGAIN_SECONDS)

    async def close(self, progress: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
        """Keep all streams that are to be kept, for the next start; a worker that hangs is not waited for.

        Args:
            progress: Called after each batch.

        Returns:
            How many were kept, and what hangs, the worker or the store.
        """
        busy = self._worker.busy
        self._worker_hangs = busy is not None
        hangs = [] if busy is None else [f"the worker, with {busy.of}"]
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=self._calls.seconds)
            hangs += ["the store"] if late and busy is None else []
        streams = [stream for stream in self._table if stream.durability != "ephemeral"]
        kept = 0
        for start in range(0, len(streams), AT_A_TIME):
            some, began = streams[start : start + AT_A_TIME], time.monotonic()
            try:
                kept += len(await self.keep(some, final=True))
            except (ServiceError, OSError) as error:
                log.error("streams_not_kept", streams=[stream.id for stream in some], reason=str(error))
                if time.monotonic() - began >= self._calls.seconds:
                    return kept, [*hangs, "the store"]
            progress()
        await self._undo_unsure_claims()
        return kept, hangs

    async def _undo_unsure_claims(self) -> None:
        if not self.checkpoints.catalogue.unsure_claims:
            return
        try:
            await self._calls.run(self.checkpoints.catalogue.undo_unsure_claims)
        except ServiceError as error:  # the next process then takes it that generations were lost
            log.error("claims_not_undone", reason=str(error))

    def _is_wanted(self, stream: Stream) -> bool:
        """Tell whether a stream is to be kept: of one that is ephemeral, the row alone."""
        enrolled = stream.claim is not None and not stream.unsettled
        return not enrolled if stream.durability == "ephemeral" else not _is_kept(stream)

    def _due(self) -> list[Stream]:
        """Return the streams whose time has come; one that cannot be looked at does not hold up the others."""
        due = []
        for stream in self._changed.values():
            try:
                due += [stream] if self._is_due(stream) else []
            except Exception as error:  # noqa: BLE001 - the fault of one stream is not the others'
                log.error("stream_not_looked_at", stream=stream.id, reason=str(error))
        return due

    def _is_due(self, stream: Stream) -> bool:
        if self._changed.is_delayed(stream.id):
            return False
        if stream.durability == "ephemeral" or stream.claim is None or stream.unsettled:
            return True
        return self._changed.is_urgent(stream.id) or time.monotonic() - stream.kept >= self._seconds

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


def _is_kept(stream: Stream) -> bool:
    """Tell whether the store is known to hold a stream as it is."""
    return stream.claim is not None and stream.claim.mark == stream.mark and not stream.unsettled


def _settle(stream: Stream, claim: Claim, generation: int | None = None) -> None:
    stream.claim, stream.unsettled = claim, ""
    stream.durable_generation = stream.generation if generation is None else generation
    stream.kept = time.monotonic()


def _taken(stream: Stream, *, final: bool) -> Taken:
    """Take a stream; one whose job is under way, as it was before."""
    before = stream.before_job()
    taken = take(stream, final=final)
    return taken if before is stream else replace(taken, stream=before, answered=tuple(before.retries.entries()))
