"""Writes checkpoints: of `sync` streams before each answer, of `periodic` ones now and then, of all at the stop."""

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
from service.storage.checkpoints import Checkpoints, StreamCopy, Written, copy_stream, record_of
from service.storage.ended_answers import LAST, EndedAnswers
from service.storage.recorder import Recorder
from service.storage.store_calls import StoreCalls
from service.streams.idempotency import Answered, RequestIdentity
from service.streams.stream import Claim, Stream
from service.streams.table import StreamTable
from service.streams.value import StreamValue
from service.support.steps import Steps
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry
from service.types import Happening, InferResponse

LOOK_SECONDS = 0.5
"""Seconds between scans for streams that are due."""
AGAIN_SECONDS = 1.0
"""Seconds before a failed write of a stream is tried again."""
AT_A_TIME = 64
"""Most streams written in one transaction."""
FENCED = "was taken over by another process: it is fenced here, and nothing was changed; send it there, or try again"


class Keeper:
    """Writes streams to the store.

    Args:
        checkpoints: The store.
        table: The streams.
        worker: Copies the streams between jobs.
        recorder: Records events.
        telemetry: Counts checkpoints.
        calls: Runs the store's calls.
        steps, seconds: Generations and seconds after which a `periodic` stream is written.
        ended: The last answers of ended streams.
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
        self._running: set[asyncio.Future[list[StreamCopy]]] = set()
        self._wake = asyncio.Event()

    def append(self, stream: Stream, value: StreamValue, *, always: bool = False) -> Steps[None]:
        """Make a `sync` stream's next value durable before it is committed; with `always`, a `periodic` stream's too.

        This runs on the worker in the stream's turn. The write itself is a store call outside the worker.

        Raises:
            FencedError: If another process has claimed the stream. This process drops it.
            StoreFullError: If there is no room.
            StoreDownError: If the store does not answer.
        """
        durability = value.config.durability
        applies = durability == "sync" or (always and durability == "periodic")
        if not applies or _is_kept(stream, value):
            return
        with (yield from self._exclusive(stream)):
            written = yield partial(self.checkpoints.write, [copy_stream(stream, value)])
        if stream.id in written.failed:
            raise written.failed[stream.id]
        if stream.id in written.lost:
            self._lose(stream)
            raise FencedError(f"stream {stream.id!r} {FENCED}")
        self._checkpoints.labels("kept").inc()
        _settle(stream, written.claims[stream.id])

    def note(self, stream: Stream, *, soon: bool = False) -> None:
        """Schedule a write after a request, or `soon` after an operator's call. Runs on the event loop."""
        if self._table.find(stream.id) is not stream:
            return
        if self._needs_write(stream):
            self._changed[stream.id] = stream
            if soon or stream.current.generation - stream.stored.durable_generation >= self._steps:
                self._changed.mark_urgent(stream.id)
                self._wake.set()

    def is_writing(self, stream_id: str) -> bool:
        """Return whether a write of a stream is running."""
        return stream_id in self._writing

    def write_again(self, stream: Stream) -> None:
        """Write a stream again that was written for its rest but stays in use: it may pass the stored generation."""
        stored = stream.stored
        if stored.claim is not None:
            stored.claim = replace(stored.claim, mark=())
            self.note(stream, soon=True)

    def forget(self, stream: Stream) -> Steps[None]:
        """Remove a stream and its answers from the store, on the worker in its turn.

        Raises:
            FencedError: If another process has claimed it. Its state in the store stays.
        """
        yield from self._remove(stream, [])

    def end(self, stream: Stream, value: StreamValue, *new: Answered) -> Steps[None]:
        """Remove a stream that a client has ended, and keep its last answers; on the worker in its turn.

        `value` is the stream's last one, and `new` are answers not sent yet. Those of a `sync` stream are durable when
        this returns.

        Raises:
            FencedError: If another process has claimed it. Its state in the store stays.
        """
        last = (*value.retries.kept, *new)[-LAST:]
        yield from self._remove(stream, last if value.config.durability == "sync" else [])
        self.ended.keep(stream.id, last)

    async def answer_of_ended(
        self, stream_id: str, identity: RequestIdentity, *, sharded: bool
    ) -> InferResponse | None:
        """Return an ended stream's answer to a request; None if it is not kept.

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
        """Load the answers of streams that ended before this process started."""
        self.forget_ended()
        for stream_id, answers in self.checkpoints.ended(self.ended.seconds).items():
            self.ended.keep(stream_id, answers)

    def forget_ended(self) -> None:
        """Remove answers of ended streams from the store that are too old, or the oldest if they are too many."""
        self.checkpoints.catalogue.forget_ended(self.ended.seconds, self.ended.limit_bytes)

    def _remove(self, stream: Stream, last: Sequence[Answered]) -> Steps[None]:
        with (yield from self._exclusive(stream)):  # a running write may be the one that enrols the stream
            in_store = stream.stored.claim is not None or stream.stored.unsettled
            removed = (yield partial(self.checkpoints.remove, stream, last)) if in_store else True
        if not removed:
            self._lose(stream)
            raise FencedError(f"stream {stream.id!r} {FENCED}")
        self._changed.drop(stream.id)

    async def run(self) -> None:
        """Write streams when they are due, until cancelled. Failed writes are tried again at a later scan."""
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
                except Exception as error:  # noqa: BLE001 - a failing store must not end this loop
                    self._checkpoints.labels("failed").inc(len(due[start : start + AT_A_TIME]))
                    log.error("streams_not_kept", streams=len(due), reason=str(error))
                    await asyncio.sleep(LOOK_SECONDS)

    async def keep(self, streams: Iterable[Stream], *, final: bool = False) -> list[StreamCopy]:
        """Write streams as they are; return those that were written.

        Raises:
            ServiceError: If the store refuses them.
        """
        writing = asyncio.ensure_future(self._write({stream.id: stream for stream in streams}, final=final))
        self._running.add(writing)
        writing.add_done_callback(self._running.discard)
        return await asyncio.shield(writing)  # a write that has begun finishes even if its caller is cancelled

    async def _write(self, there: Mapping[str, Stream], *, final: bool) -> list[StreamCopy]:
        for stream_id in there:
            self._changed.clear_urgent(stream_id)  # a change noted from here on may miss this write
        copying = partial(self._copy, there.values(), final=final)
        copies = copying() if self._worker_hangs else await self._worker.run(copying)
        written = Written({}, set(), {})
        try:
            written = await self._calls.run(partial(self.checkpoints.write, copies))
        finally:
            for each in copies:
                self._settle_write(there[each.stream.id], written)
            for each in copies:
                self._writing.pop(each.stream.id).set()
        return [each for each in copies if each.stream.id in written.claims]

    def _exclusive(self, stream: Stream) -> Steps[AbstractContextManager[None]]:
        """Wait until no write of a stream runs, and prevent others until the block ends. Runs on the worker.

        Only the worker marks streams as being written, so two marks cannot collide.
        """
        while (writing := self._writing.get(stream.id)) is not None:
            yield writing.wait
        self._writing[stream.id] = threading.Event()
        return self._until_written(stream.id)

    @contextmanager
    def _until_written(self, stream_id: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._writing.pop(stream_id).set()

    def _copy(self, streams: Iterable[Stream], *, final: bool) -> list[StreamCopy]:
        """Copy the streams that are in the table and not being written, on the worker unless that hangs at the stop.

        A job commits at its end, so the value before it is copied while it runs or hangs.
        """
        free = [
            stream for stream in streams if self._table.find(stream.id) is stream and stream.id not in self._writing
        ]
        self._writing |= {stream.id: threading.Event() for stream in free}
        return [copy_stream(stream, stream.current, final=final) for stream in free]

    def _settle_write(self, stream: Stream, written: Written) -> None:
        if stream.id in written.lost:
            self._lose(stream)
        elif stream.id in written.claims:
            self._record_success(stream, written.claims[stream.id])
        else:
            self._record_failure(stream, written.failed.get(stream.id))

    def _record_success(self, stream: Stream, claim: Claim) -> None:
        self._checkpoints.labels("kept").inc()
        _settle(stream, claim)
        if stream.current.mark == claim.mark or stream.current.config.durability == "ephemeral":
            self._changed.drop(stream.id)

    def _record_failure(self, stream: Stream, error: Exception | None) -> None:
        """Schedule another try. A stream that failed by its own fault waits, so that it does not hold up others."""
        if self._table.find(stream.id) is stream:
            self._changed[stream.id] = stream
        if error is not None:
            self._checkpoints.labels("failed").inc()
            log.error("stream_not_kept", stream=stream.id, reason=str(error))
            self._changed.delay(stream.id, AGAIN_SECONDS)

    async def close(self, progress: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
        """Write all streams for the next start, without waiting for a worker that hangs.

        Args:
            progress: Called after each batch.

        Returns:
            The number of streams written, and the parts that hang: the worker or the store.
        """
        busy = self._worker.busy
        self._worker_hangs = busy is not None
        hangs = [] if busy is None else [f"the worker, with {busy.of}"]
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self._calls.seconds)
            hangs += ["the store"] if late and busy is None else []
        streams = [stream for stream in self._table if stream.current.config.durability != "ephemeral"]
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
        except ServiceError as error:  # the next process will report lost generations that are not lost
            log.error("claims_not_undone", reason=str(error))

    def _needs_write(self, stream: Stream) -> bool:
        """Return whether a stream needs a write. An ephemeral stream needs only its row."""
        stored, value = stream.stored, stream.current
        enrolled = stored.claim is not None and not stored.unsettled
        return not enrolled if value.config.durability == "ephemeral" else not _is_kept(stream, value)

    def _due(self) -> list[Stream]:
        """Return the streams to write now. An error about one stream does not hold up the others."""
        due = []
        for stream in self._changed.values():
            try:
                due += [stream] if self._is_due(stream) else []
            except Exception as error:  # noqa: BLE001 - one stream's fault must not affect the others
                log.error("stream_not_looked_at", stream=stream.id, reason=str(error))
        return due

    def _is_due(self, stream: Stream) -> bool:
        if self._changed.is_delayed(stream.id):
            return False
        stored = stream.stored
        if stream.current.config.durability == "ephemeral" or stored.claim is None or stored.unsettled:
            return True
        return self._changed.is_urgent(stream.id) or time.monotonic() - stored.kept >= self._seconds

    def _lose(self, stream: Stream) -> None:
        """Drop a stream that now belongs to another process."""
        self._changed.drop(stream.id)
        self._checkpoints.labels("fenced").inc()
        if self._table.find(stream.id) is stream:
            claim = stream.stored.claim
            if claim is None:
                self._table.delete(stream.id)
            else:
                self._table.rest(record_of(stream, stream.current, claim))
            self._recorder.log(stream, Happening("fenced", "another process has taken the stream over"))


def _is_kept(stream: Stream, value: StreamValue) -> bool:
    """Return whether the store is known to hold a value of a stream."""
    stored = stream.stored
    return stored.claim is not None and stored.claim.mark == value.mark and not stored.unsettled


def _settle(stream: Stream, claim: Claim) -> None:
    """Record a write that has taken effect."""
    stored = stream.stored
    stored.claim, stored.unsettled = claim, ""
    stored.durable_generation, stored.kept = claim.generation, time.monotonic()
