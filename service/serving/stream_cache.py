"""Keeps used streams in memory: loads them on demand, and puts the least recently used ones to rest in the store."""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakValueDictionary

from service.errors import UnfitError, UnknownError
from service.models.hosted import HostedModel
from service.serving.scheduler import Scheduler
from service.serving.suspects import Suspects
from service.storage.checkpointer import Keeper
from service.storage.checkpoints import Loaded, StreamCopy, build, load, model_of, record_of
from service.storage.history_files import Histories
from service.storage.recorder import Recorder
from service.storage.store_calls import StoreCalls
from service.streams.records import Record
from service.streams.stream import Stream
from service.streams.table import StreamTable, check_generation, valid_id
from service.support.clock import CLOCK
from service.telemetry.logs import log
from service.types import Happening

LOOK_SECONDS = 1.0
"""Seconds between scans for idle or expired streams, unless woken earlier."""
BREAK_SECONDS = 0.05
"""Minimum seconds between two scans, however many streams arrive."""
WRITING_SECONDS = 0.2
"""Seconds until the next scan if the stream that must rest is being written."""
SLACK = 0.1
"""Share of the allowed bytes that is free after streams were put to rest."""
OWN_BYTES = 32_768
"""Rough mean size of a stream in memory apart from its state's tensors and its history: monitors and answers."""
SOME = 64
"""Most streams put to rest at a time."""


@dataclass(frozen=True, slots=True)
class RestLimits:
    """The limits after which streams leave the memory, or end.

    Attributes:
        resident_bytes: Most bytes of streams in memory.
        rest_seconds: Seconds without a request after which a stream is put to rest; 0 for never.
        end_seconds: Seconds without a request after which a resting stream ends; 0 for never.
    """

    resident_bytes: int
    rest_seconds: float = 0.0
    end_seconds: float = 0.0


class Residence:
    """Loads streams from the store, and puts them to rest there.

    Args:
        table: The streams.
        keeper: Writes them to the store.
        models: The served models, by name.
        scheduler: Runs the building of streams on the worker.
        calls: Runs the store's calls.
        recorder: Records events.
        limits: When streams rest, and when they end.
        sharded: True if other processes may have created streams in the store.
        histories: Stores histories; None to drop them.
        suspects: The streams that are held back because their steps ended the process.
    """

    def __init__(
        self,
        table: StreamTable,
        keeper: Keeper,
        models: Mapping[str, HostedModel],
        scheduler: Scheduler,
        calls: StoreCalls,
        recorder: Recorder,
        *,
        limits: RestLimits,
        sharded: bool,
        histories: Histories | None = None,
        suspects: Suspects | None = None,
    ) -> None:
        self.table = table
        self._histories = histories
        self._suspects = suspects or Suspects()
        self._keeper = keeper
        self._models = models
        self._scheduler = scheduler
        self._calls = calls
        self._recorder = recorder
        self.limits = limits
        self._sharded = sharded
        self._unlogged: set[str] = set()
        self._forgotten: set[str] = set()
        self._used: dict[str, float] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._free = float(limits.resident_bytes)
        self._wake = asyncio.Event()

    def begin(self, records: list[Record]) -> None:
        """Put the store's streams in the table as resting. None is loaded before it is used."""
        for record in records:
            self.table.rest(record)
        self._unlogged = {record.id for record in records}
        self._forgotten = {record.id for record in records if record.durability == "ephemeral"}

    def may_know(self, stream_id: str) -> bool:
        """Return whether a stream of this id may exist, as far as is known without a call to the store."""
        return valid_id(stream_id) and (self._sharded or self.table.knows(stream_id))

    async def get(self, stream_id: str, *, reset: bool = False) -> Stream:
        """Return a stream, loaded if it rests; with `reset`, it is loaded in its initial state.

        Raises:
            UnknownError: If there is none.
            UnfitError: If its model is not served or has changed, or its state is damaged.
            StoreDownError: If the store does not answer.
        """
        stream = await self.find(stream_id, reset=reset)
        if stream is None:
            raise UnknownError(f"there is no stream {stream_id[:200]!r}")
        return stream

    async def get_even_unfit(self, stream_id: str) -> Stream:
        """Return a stream as `get` does, in its initial state if it does not fit the served model or is damaged."""
        try:
            return await self.get(stream_id)
        except UnfitError:
            return await self.get(stream_id, reset=True)

    async def find(self, stream_id: str, *, reset: bool = False) -> Stream | None:
        """Return a stream as `get` does, or None if there is none."""
        stream = self.table.find(stream_id)
        if stream is not None or not self.may_know(stream_id):
            return stream
        async with self._lock_of(stream_id):
            return self.table.find(stream_id) or await self._load(stream_id, reset=reset)

    async def end_resting(self, stream_id: str, expected: int | None, *, dry_run: bool = False) -> Record | None:
        """End a resting stream by its record alone. Its model need not be served, nor its state be readable.

        Args:
            stream_id: The stream.
            expected: The generation that it must be at; None for any.
            dry_run: Check only; the stream stays.

        Returns:
            Its record; None if no stream of this id rests.

        Raises:
            MovedOnError: If it is at another generation than expected.
            StoreDownError: If the store does not answer.
        """
        async with self._lock_of(stream_id):
            if self.table.find(stream_id) is not None or not self.may_know(stream_id):
                return None
            record = await self._calls.run(partial(self._remove_row, stream_id, expected, dry_run=dry_run))
            if record is None or not dry_run:
                self._forget(stream_id)
            return record

    def _remove_row(self, stream_id: str, expected: int | None, *, dry_run: bool) -> Record | None:
        """Remove a stream's row and return it; None if there is none. With `dry_run`, only check and return it."""
        catalogue = self._keeper.checkpoints.catalogue
        record = catalogue.find(stream_id)
        if record is None:
            return None
        _check_generation(record, expected)
        if dry_run:
            return record
        claimed = catalogue.claim(stream_id)
        if claimed is None:
            return None
        before, after, _ = claimed
        _check_generation(before, expected)  # another process may have changed it before the claim
        return before if catalogue.remove(stream_id, after.epoch, after.reserved) else None

    def _forget(self, stream_id: str) -> None:
        """Drop all data about a resting stream, so that a new stream of its id starts clean."""
        self.table.resting.pop(stream_id, None)
        self._unlogged.discard(stream_id)
        self._forgotten.discard(stream_id)
        self._used.pop(stream_id, None)

    def _lock_of(self, stream_id: str) -> asyncio.Lock:
        """Return a resting stream's lock, which serialises loading and ending it."""
        return self._locks.setdefault(stream_id, asyncio.Lock())

    def note(self, stream: Stream) -> None:
        """Count a stream that was added to memory; wake the scan if memory is full. Runs on the event loop."""
        self._free -= _bytes(stream)  # an estimate: each scan counts all streams, which takes 30 ms for 10,000
        if self._free < 0:
            self._wake.set()

    def check_served(self, stream_id: str) -> None:
        """Check that a stream is not refused for ending the process even when it is frozen.

        Raises:
            ConflictError: If it is refused.
        """
        self._suspects.check(stream_id)

    def hold(self, stream: Stream, *, again: bool = True) -> None:
        """Freeze a stream that was added to memory if its step ended the process twice, and record that."""
        held = self._suspects.hold(stream, again=again)
        if held is not None:
            self._recorder.log(stream, held)

    async def run(self) -> None:
        """Put streams to rest, and end unused ones, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
            self._wake.clear()
            try:
                await self.make_room()
                await self.end_unused()
                await asyncio.sleep(BREAK_SECONDS)
            except Exception as error:  # noqa: BLE001 - a store's failure must not end this
                log.error("streams_not_rested", reason=str(error))
                await asyncio.sleep(LOOK_SECONDS)

    async def make_room(self) -> None:
        """Put to rest idle streams, and the least recently used ones while memory holds too many bytes."""
        oldest = min(self.table, key=lambda stream: stream.used, default=None)
        held = self._bytes()
        if oldest is not None and (self._unused(oldest) or held > self.limits.resident_bytes):
            await self._rest_oldest()
            held = self._bytes()
        self._free = self.limits.resident_bytes - held

    async def _rest_oldest(self) -> None:
        idle = sorted((stream for stream in self.table if not stream.waiting), key=lambda stream: stream.used)
        while idle and (self._unused(idle[0]) or self._bytes() > self.limits.resident_bytes):
            enough = self._bytes() - (1 - SLACK) * self.limits.resident_bytes
            some = [stream for stream in idle[:SOME] if self._unused(stream)] or _first(idle[:SOME], enough)
            if any(self._keeper.is_writing(stream.id) for stream in some):
                # Going on would put more recently used streams to rest first, so look again when it may have ended.
                asyncio.get_running_loop().call_later(WRITING_SECONDS, self._wake.set)
                return
            idle = idle[len(some) :]
            kept = await self._keeper.keep(some, final=True)
            if self._histories is not None:
                await asyncio.to_thread(self._histories.save, [written.stream for written in kept])
            for written in kept:
                self._rest(written)

    async def end_unused(self) -> None:
        """End resting streams that were unused for longer than allowed."""
        if not self.limits.end_seconds:
            return
        self._used = {name: used for name, used in self._used.items() if name in self.table.resting}
        for record in [record for record in self.table.resting.values() if self._is_over(record)]:
            async with self._lock_of(record.id):
                if record.id in self.table.resting:
                    await self._end_or_note(record)

    async def _end_or_note(self, record: Record) -> None:
        there = await self._calls.run(partial(self._end, record))
        if there is None:
            self._forget(record.id)
            self._recorder.log_by_id(record.id, record.model, Happening("ended", "unused for as long as is allowed"))
        else:
            self._used.pop(record.id, None)
            self.table.rest(there)

    def _end(self, record: Record) -> Record | None:
        """Remove a resting stream; return its record instead if another process has used it since.

        The use is checked before the claim, since a claim takes the stream away from that process.
        """
        catalogue = self._keeper.checkpoints.catalogue
        there = catalogue.find(record.id)
        if there is not None and there.last_used > record.last_used:
            return there
        claimed = catalogue.claim(record.id)
        if claimed is None:
            return None
        before, after, _ = claimed
        unused = before.last_used <= record.last_used
        return None if unused and catalogue.remove(record.id, after.epoch, after.reserved) else after

    def _is_over(self, record: Record) -> bool:
        """Return whether a resting stream was unused for too long.

        If this process has used it, the monotonic clock decides. Otherwise the wall clock decides, once it can be
        trusted: it may have been wrong when the process started, or when the stream was used.
        """
        used = self._used.get(record.id)
        if used is not None:
            return time.monotonic() - used > self.limits.end_seconds
        return CLOCK.now() - record.last_used > self.limits.end_seconds and CLOCK.is_sure()

    def _unused(self, stream: Stream) -> bool:
        return 0 < self.limits.rest_seconds < time.monotonic() - stream.used

    def _rest(self, written: StreamCopy) -> None:
        """Put a stream to rest that was written, unless it was used since."""
        stream = self.table.find(written.stream.id)
        if stream is None or stream.stored.claim is None:
            return
        value, claim = stream.current, stream.stored.claim
        used = value.counters.requests != written.value.counters.requests or claim.mark != value.mark
        if stream.waiting or used:
            self._keeper.write_again(stream)
        else:
            record = record_of(stream, value, claim)
            self._used[stream.id] = stream.used
            self.table.rest(replace(record, ceiling=record.generation))

    def _bytes(self) -> int:
        return sum(_bytes(stream) for stream in self.table)

    async def _load(self, stream_id: str, *, reset: bool) -> Stream | None:
        reset = reset or stream_id in self._forgotten
        record = self.table.resting.get(stream_id)
        if record is not None:
            model = model_of(self._models, record, reset=reset)  # an unfit stream is not claimed
            options = json.loads(record.settings)["options"]
            await model.try_ahead(record.adapter, options, self._scheduler.admission.place(None))
        loaded = await self._calls.run(partial(load, self._keeper.checkpoints, stream_id))
        if loaded is None:
            self.table.resting.pop(stream_id, None)
            return None
        stream, lacks = await self._scheduler.run_outside_turns(
            lambda: self._build(loaded, reset=reset), f"stream {stream_id!r}"
        )
        if self._histories is not None:
            await asyncio.to_thread(self._histories.load, stream)
        self._forgotten.discard(stream_id)
        stream.touch()
        self.table.put(stream)
        self.note(stream)
        self.hold(stream, again=stream_id in self._unlogged)
        if lacks or stream_id in self._unlogged:
            self._unlogged.discard(stream_id)
            self._recorder.log(stream, _resumed(stream, loaded, lacks))
        return stream

    def _build(self, loaded: Loaded, *, reset: bool) -> tuple[Stream, str]:
        with self._suspects.marked(loaded.record.id):
            return build(self.table, self._models, loaded, reset=reset)


def _check_generation(record: Record, expected: int | None) -> None:
    """Check a record's generation. The stored one is accepted too, since an unused claim raises the newest."""
    if expected != record.generation:
        check_generation(record.id, record.newest, expected)


def _bytes(stream: Stream) -> int:
    return stream.current.state.size_bytes + OWN_BYTES + stream.history.nbytes


def _first(streams: list[Stream], enough: float) -> list[Stream]:
    """Return the fewest first streams that together hold `enough` bytes, or all of them."""
    chosen: list[Stream] = []
    while len(chosen) < len(streams) and sum(map(_bytes, chosen)) < enough:
        chosen.append(streams[len(chosen)])
    return chosen


def _resumed(stream: Stream, loaded: Loaded, lacks: str) -> Happening:
    """Describe a stream's start after a restart, and its possible loss; `lacks` names monitors that begin again."""
    happening = _continued(stream, loaded)
    return replace(happening, reason=f"{happening.reason}; {lacks}") if lacks else happening


def _continued(stream: Stream, loaded: Loaded) -> Happening:
    durable = loaded.record.generation
    figures = {"generation": float(durable), "goes_on": float(stream.current.generation)}
    if stream.current.generation == durable:
        return Happening("resumed", f"at generation {durable}", figures=figures)
    lost = "what it had learned since then in memory is lost" if durable else "what it had learned in memory is lost"
    said = (
        f"at generation {durable}, the last that was kept: {lost}; it goes on as generation {stream.current.generation}"
    )
    return Happening("resumed", said, figures=figures)
