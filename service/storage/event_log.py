"""The event log: everything that was done to streams, and why; stored, and told live to whoever listens."""

import asyncio
import json
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Engine, delete, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from service.errors import SettingsError
from service.storage.backends.database import Database, available
from service.storage.backends.tables import EVENTS
from service.storage.store_calls import StoreCalls
from service.streams.records import Event
from service.support.clock import CLOCK
from service.support.storable_text import as_storable, storable
from service.support.supervision import Supervisor
from service.telemetry.logs import log
from service.types import Happening

IN_MEMORY = 10_000
"""Newest events that are answered without the database."""
UNWRITTEN = 40_000
"""Most events that wait for a database that cannot be written; where more do, the oldest are lost."""
REFUSED = (DataError, IntegrityError, ValueError)
"""What a database says of rows that it does not take, while it takes others; ValueError of texts without encoding."""
PAGE = 500
"""Most events handed to a listener at a time."""
SHARD_BITS = 32
"""Where processes share a log, the ids of each begin with its number."""


class EventLog:
    """Keeps events in memory and, written behind by a thread of its own, in a database.

    Args:
        database: Where they are kept.
        supervisor: Runs the thread that writes.
        calls: Runs the calls that read.
        sharded: Whether other processes write there too.

    Raises:
        SettingsError: If it cannot be read.
    """

    def __init__(self, database: Database, supervisor: Supervisor, calls: StoreCalls, *, sharded: bool = False) -> None:
        self._engine = database.engine
        self._calls = calls
        stored = _newest(self._engine)
        self._lock = threading.Lock()
        self._newest: deque[Event] = deque(stored, maxlen=IN_MEMORY + UNWRITTEN)
        self.last = self._newest[-1].id if self._newest else 0
        if sharded:
            self.last = max(self.last, database.process << SHARD_BITS)
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._closing = False
        self._unwritten: SimpleQueue[Event | None] = SimpleQueue()
        self._left: deque[Event] = deque(maxlen=UNWRITTEN)
        self._ended = False
        self._writer = supervisor.start_thread("event-log", self._write)

    def add(self, happening: Happening, stream: str = "", model: str = "") -> Event:
        """Log something that happened; safe from any thread, and never waits for the database."""
        with self._lock:
            self.last += 1
            figures = {name: float(value) for name, value in happening.figures.items() if math.isfinite(value)}
            kind, stream, model, action, reason = map(
                as_storable, (happening.kind, stream, model, happening.action, happening.reason)
            )
            told = Event(self.last, CLOCK.now(), kind, stream, model, action, reason, figures)
            self._newest.append(told)
            self._unwritten.put(told)
            listeners = list(self._listeners.items())
        for woken, loop in listeners:
            loop.call_soon_threadsafe(woken.set)
        log.info("event", kind=told.kind, stream=stream, action=told.action, reason=told.reason)
        return told

    async def read(self, after: int, limit: int = PAGE, stream: str | None = None) -> list[Event]:
        """Return events as `since` does; those that are not in memory are read beside the event loop.

        Raises:
            StoreDownError: If the database does not answer in time.
        """
        with self._lock:
            in_memory = not self._newest or after + 1 >= self._newest[0].id
        find = partial(self.since, after, limit, stream)
        return find() if in_memory else await self._calls.run(find)

    def since(self, after: int, limit: int = PAGE, stream: str | None = None) -> list[Event]:
        """Return up to `limit` events with greater ids, the oldest first; of one stream, if it is named."""
        with self._lock:
            newest = list(self._newest)
        older = self._stored(after, limit, stream) if newest and after + 1 < newest[0].id else []
        after = older[-1].id if older else after
        found = (told for told in newest if told.id > after and stream in (None, told.stream))
        return [*older, *islice(found, limit - len(older))]

    def latest(self, stream: str, limit: int) -> list[Event]:
        """Return the newest events of a stream that are in memory, the oldest first."""
        with self._lock:
            found = [told for told in self._newest if told.stream == stream]
        return found[-limit:]

    async def follow(self, after: int, stream: str | None = None) -> AsyncIterator[list[Event]]:
        """Yield pages of events as they come, from after an id on, until the log closes.

        A listener is a cursor and no queue: one that is slow costs no memory, and catches up from the log.
        """
        with self._listening() as woken:
            while not self._closing:
                woken.clear()
                told = self.last
                while page := await self.read(after, PAGE, stream):
                    after = page[-1].id
                    yield page
                after = max(after, told)  # what was told to others is not looked through again
                await woken.wait()

    def wake(self) -> None:
        """Let listeners go: the server is stopping."""
        self._closing = True
        for woken, loop in list(self._listeners.items()):
            loop.call_soon_threadsafe(woken.set)

    def forget(self, older_seconds: float) -> None:
        """Remove what is older from the database; what is in memory goes by number.

        Raises:
            StoreDownError: If the database does not answer.
        """
        with available(), self._engine.begin() as connection:
            connection.execute(delete(EVENTS).where(EVENTS.c.time < CLOCK.now() - older_seconds))

    def close(self, seconds: float | None = None) -> bool:
        """Write what is left; False if that takes longer than `seconds`."""
        self.wake()
        self._unwritten.put(None)
        self._writer.join(seconds)
        return not self._writer.is_alive()

    @contextmanager
    def _listening(self) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        with self._lock:
            self._listeners[woken] = asyncio.get_running_loop()
        try:
            yield woken
        finally:
            with self._lock:
                del self._listeners[woken]

    def _stored(self, after: int, limit: int, stream: str | None) -> list[Event]:
        query = select(EVENTS).where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
        if stream is not None and not storable(stream):
            return []
        if stream is not None:
            query = query.where(EVENTS.c.stream == stream)
        try:
            with self._engine.connect() as connection:
                return [_event(row) for row in connection.execute(query)]
        except SQLAlchemyError as error:
            log.error("events_not_read", reason=str(error))
            return []

    def _write(self) -> None:
        """Write events as they come, all that wait in one transaction; what cannot be written waits for the next."""
        while not self._ended:
            waiting = [self._unwritten.get()]
            while not self._unwritten.empty():
                waiting.append(self._unwritten.get())
            self._ended = None in waiting
            self._left.extend(told for told in waiting if told is not None)
            self._write_left()

    def _write_left(self) -> None:
        try:
            if self._left:
                self._insert(self._left)
            self._left.clear()
            self._forget_written()
        except REFUSED:
            self._write_one_by_one()
        except SQLAlchemyError as error:
            log.error("events_not_written", events=len(self._left), reason=str(error))

    def _write_one_by_one(self) -> None:
        """Write events that were refused together: those that are there already, or cannot be stored, are left out."""
        while self._left:
            told = self._left[0]
            try:
                self._insert([told])
            except IntegrityError:
                pass  # it was written before, though the reply was lost
            except REFUSED as error:
                log.error("event_not_stored", kind=told.kind, stream=told.stream, reason=str(error))
            except SQLAlchemyError as error:
                log.error("events_not_written", events=len(self._left), reason=str(error))
                return
            self._left.popleft()

    def _insert(self, events: Iterable[Event]) -> None:
        rows = [{**asdict(told), "figures": json.dumps(told.figures)} for told in events]
        with self._engine.begin() as connection:
            connection.execute(EVENTS.insert(), rows)

    def _forget_written(self) -> None:
        """Leave to the database what is in it and too much for the memory."""
        with self._lock:
            waiting = self._unwritten.qsize()
            while len(self._newest) > IN_MEMORY + waiting:
                self._newest.popleft()


def _newest(engine: Engine) -> list[Event]:
    """Return the newest events, the oldest first."""
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(EVENTS).order_by(EVENTS.c.id.desc()).limit(IN_MEMORY)).all()
        return [_event(row) for row in reversed(rows)]
    except (ValueError, SQLAlchemyError) as error:
        raise SettingsError(f"the event log cannot be read: {error}") from None


def _event(row: Any) -> Event:
    return Event(row.id, row.time, row.kind, row.stream, row.model, row.action, row.reason, json.loads(row.figures))
