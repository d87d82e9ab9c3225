"""Which streams are in memory: brought back when they are asked for, put to rest when there are too many bytes."""

import asyncio
import time
from collections.abc import Mapping
from weakref import WeakValueDictionary

from service.checkpoints import Loaded, built, load, record_of
from service.errors import ServiceError, UnknownError
from service.hosting import HostedModel
from service.keeping import Keeper
from service.recording import Recorder
from service.store.catalogue import Record
from service.streams import Stream, StreamTable
from service.telemetry import log
from service.types import Happening
from service.worker import Worker

LOOK_SECONDS = 1.0
ENOUGH = 0.9
"""Share of the allowed bytes that is left once streams are put to rest."""
OWN_BYTES = 32_768
"""What a stream takes in memory besides its state's tensors: monitors, history, answers; a rough mean."""
SOME = 64
"""Streams put to rest at a time."""


class Residence:
    """Brings streams back from the store, and puts them to rest there.

    Args:
        table: The streams.
        keeper: Writes them.
        models: The served models, by name.
        worker: Where streams are built.
        recorder: Where it is told.
        limit_bytes: Most bytes of streams in memory.
        sharded: Whether other processes may have made streams that are not known here.
    """

    def __init__(
        self,
        table: StreamTable,
        keeper: Keeper,
        models: Mapping[str, HostedModel],
        worker: Worker,
        recorder: Recorder,
        *,
        limit_bytes: int,
        sharded: bool,
    ) -> None:
        self.table = table
        self._keeper = keeper
        self._models = models
        self._worker = worker
        self._recorder = recorder
        self._limit_bytes = limit_bytes
        self._sharded = sharded
        self._untold: set[str] = set()
        self._coming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def begin(self, records: list[Record]) -> None:
        """Know the streams that the store holds; none is read before it is asked for."""
        for record in records:
            self.table.rest(record)
        self._untold = {record.id for record in records}

    def may_know(self, stream_id: str) -> bool:
        """Whether there may be a stream of this id, as far as can be told without asking the store."""
        return self._sharded or self.table.knows(stream_id)

    async def get(self, stream_id: str, *, anew: bool = False) -> Stream:
        """Return a stream, brought back if it rests; `anew` in its initial state, where it is unfit else.

        Raises:
            UnknownError: If there is none.
            UnfitError: If its model is not served, or is another now, or its state is damaged.
            StoreDownError: If the store does not answer.
        """
        stream = await self.find(stream_id, anew=anew)
        if stream is None:
            raise UnknownError(f"there is no stream {stream_id[:200]!r}")
        return stream

    async def find(self, stream_id: str, *, anew: bool = False) -> Stream | None:
        """Return a stream as `get` does, or None if there is none."""
        stream = self.table.find(stream_id)
        if stream is not None or not self.may_know(stream_id):
            return stream
        lock = self._coming.setdefault(stream_id, asyncio.Lock())
        async with lock:
            return self.table.find(stream_id) or await self._brought(stream_id, anew=anew)

    async def run(self) -> None:
        """Put streams to rest while there are too many bytes, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.make_room()
            except ServiceError as error:
                log.error("streams_not_rested", reason=str(error))

    async def make_room(self) -> None:
        """Put to rest the streams used longest ago, until the bytes in memory are within the limit."""
        if self._bytes() <= self._limit_bytes:
            return
        idle = sorted((stream for stream in self.table if not stream.waiting), key=lambda stream: stream.last_used)
        while idle and self._bytes() > ENOUGH * self._limit_bytes:
            some, idle = idle[:SOME], idle[SOME:]
            for taken in await self._keeper.keep(some, final=True):
                self._rest(taken.stream.id, taken.stream)

    def _rest(self, stream_id: str, kept: Stream) -> None:
        """Let a stream go that was kept, unless it was used meanwhile."""
        stream = self.table.find(stream_id)
        if stream is None or stream.claim is None or stream.waiting or stream.requests != kept.requests:
            return
        if stream.claim.mark == stream.mark:
            self.table.rest(record_of(stream, stream.claim))

    def _bytes(self) -> int:
        return sum(stream.state_bytes + OWN_BYTES for stream in self.table)

    async def _brought(self, stream_id: str, *, anew: bool) -> Stream | None:
        loaded = await asyncio.to_thread(load, self._keeper.checkpoints, stream_id)
        if loaded is None:
            self.table.resting.pop(stream_id, None)
            return None
        stream = await self._worker.run(lambda: built(self.table, self._models, loaded, anew=anew))
        stream.last_used = time.time()
        self.table.put(stream)
        if stream_id in self._untold:
            self._untold.discard(stream_id)
            self._recorder.tell(stream, _resumed(stream, loaded))
        return stream


def _resumed(stream: Stream, loaded: Loaded) -> Happening:
    """Say where a stream goes on after a restart, and what may be lost."""
    durable = loaded.record.generation
    figures = {"generation": float(durable), "goes_on": float(stream.generation)}
    if stream.generation == durable:
        return Happening("resumed", f"at generation {durable}", figures=figures)
    lost = "what it had learned since then in memory is lost" if durable else "what it had learned in memory is lost"
    said = f"at generation {durable}, the last that was kept: {lost}; it goes on as generation {stream.generation}"
    return Happening("resumed", said, figures=figures)
