"""The overview of streams: a badge for each, and the changes since the last look."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Literal, TypeAlias

from service.models.hosted import HostedModel
from service.serving.suspects import Suspects
from service.storage.event_log import EventLog
from service.storage.recorder import TROUBLE, TROUBLE_SECONDS
from service.streams.records import Record
from service.streams.stream import Stream
from service.streams.table import StreamTable
from service.support.clock import CLOCK

Badge: TypeAlias = Literal["new", "steady", "drifting", "guarded", "suspected", "held", "frozen", "shadow", "resting"]
CHANGES_SECONDS, MOVES_SECONDS = 1.0, 0.5
"""Seconds between updates about all streams, and about one."""


class Watching:
    """Reads streams for dashboards; changes nothing."""

    def __init__(
        self,
        models: Mapping[str, HostedModel],
        table: StreamTable,
        events: EventLog,
        suspects: Suspects | None = None,
    ) -> None:
        self.models = models
        self.table = table
        self.events = events
        self._suspects = suspects or Suspects()
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all subscriptions."""
        self._closing.set()

    def badge(self, stream: Stream | Record) -> tuple[Badge, str]:
        """Return a stream's badge, and the reason for it."""
        held = self._suspects.held(stream)
        if held:
            return "held", held
        if isinstance(stream, Record):
            return "resting", "rests in the store until its next request"
        return _badge(stream)

    def all(self) -> list[Stream | Record]:
        """Return all streams by id; those at rest as their records."""
        return sorted((*self.table, *self.table.resting.values()), key=lambda stream: stream.id)

    async def changes(self) -> AsyncIterator[tuple[list[Stream | Record], list[str]]]:
        """Yield the streams that were used or changed, and the ids of those that ended, whenever there are some."""
        marks = {stream.id: self._row_mark(stream) for stream in self.all()}
        while not await self._closes_within(CHANGES_SECONDS):
            there = self.all()
            now = {stream.id: self._row_mark(stream) for stream in there}
            changed = [stream for stream in there if marks.get(stream.id) != now[stream.id]]
            gone = [stream_id for stream_id in marks if stream_id not in now]
            marks = now
            if changed or gone:
                yield changed, gone

    async def moves(self, stream: Stream) -> AsyncIterator[None]:
        """Yield at once, and then after each change of a stream, until it ends."""
        mark = None
        while self.table.find(stream.id) is stream:
            if mark != _mark(stream):
                mark = _mark(stream)
                yield
            if await self._closes_within(MOVES_SECONDS):
                return

    def _row_mark(self, stream: Stream | Record) -> tuple[object, ...]:
        """Return a value that changes with a stream's row. The badge is part of it, since it may expire."""
        if isinstance(stream, Record):
            return (stream,)
        return *_mark(stream), self.badge(stream)[0]

    async def _closes_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _mark(stream: Stream) -> tuple[object, ...]:
    value, config = stream.current, stream.current.config
    return (
        value.counters, stream.stored.durable_generation, config.mode, config.fitted.spec, value.readings.probe,
    )  # fmt: skip


def _badge(stream: Stream) -> tuple[Badge, str]:
    since = CLOCK.now() - TROUBLE_SECONDS
    value, trouble = stream.current, stream.trouble
    if value.readings.suspicion.cause:
        return "suspected", value.readings.suspicion.reason
    if trouble is not None and trouble.time >= since and trouble.kind == "guard":
        return "guarded", f"{trouble.action.replace('_', ' ')}: {trouble.reason}"
    if value.config.mode == "frozen":
        return "frozen", "answers without learning"
    if value.config.mode == "shadow":
        return "shadow", "answers as the source model, and learns without effect on the answers"
    if trouble is not None and trouble.time >= since and trouble.kind in TROUBLE:
        return "drifting", trouble.reason.replace("_", " ")
    if not value.has_evidence:
        return "new", "too few requests to judge it"
    return "steady", "no recent drift or guard action"
