"""The event log: every action on a stream and its reason, stored in the database and pushed to live listeners."""

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
"""Newest events that are served from memory."""
UNWRITTEN = 40_000
"""Most events that wait while the database cannot be written; beyond it the oldest are lost."""
REFUSED = (DataError, IntegrityError, ValueError)
"""Errors about single rows that the database does not accept; ValueError if a text cannot be encoded."""
PAGE = 500
"""Most events sent to a listener at a time."""
SHARD_BITS = 32
"""If processes share a log, the ids of each begin with its process number, shifted by so many bits."""


class EventLog:
    """Keeps events in memory, and writes them to a database on a separate thread.

    Args:
        database: Stores the events.
        supervisor: Runs the writing thread.
        calls: Runs the reading calls.
        sharded: True if other processes write to the same log.

    Raises:
        SettingsError: If the log cannot be read.
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
        self._pending: deque[Event] = deque(maxlen=UNWRITTEN)
        self._ended = False
        self._writer = supervisor.start_thread("event-log", self._write)

    def add(self, happening: Happening, stream: str = "", model: str = "") -> Event:
        """Log an event. Safe from any thread; it never waits for the database."""
        with self._lock:
            self.last += 1
            figures = {name: float(value) for name, value in happening.figures.items() if math.isfinite(value)}
            kind, stream, model, action, reason = map(
                as_storable, (happening.kind, stream, model, happening.action, happening.reason)
            )
            event = Event(self.last, CLOCK.now(), kind, stream, model, action, reason, figures)
            self._newest.append(event)
            self._unwritten.put(event)
            listeners = list(self._listeners.items())
        for woken, loop in listeners:
            loop.call_soon_threadsafe(woken.set)
        log.info("event", kind=event.kind, stream=stream, action=event.action, reason=event.reason)
        return event

    async def read(self, after: int, limit: int = PAGE, stream: str | None = None) -> list[Event]:
        """Return events as `since` does. Events that are not in memory are read on a store thread.

        Raises:
            StoreDownError: If the database does not answer in time.
        """
        with self._lock:
            in_memory = not self._newest or after + 1 >= self._newest[0].id
        find = partial(self.since, after, limit, stream)
        return find() if in_memory else await self._calls.run(find)

    def since(self, after: int, limit: int = PAGE, stream: str | None = None) -> list[Event]:
        """Return up to `limit` events with greater ids, oldest first; with `stream`, those of that stream."""
        with self._lock:
            newest = list(self._newest)
        older = self._stored(after, limit, stream) if newest and after + 1 < newest[0].id else []
        after = older[-1].id if older else after
        found = (event for event in newest if event.id > after and stream in (None, event.stream))
        return [*older, *islice(found, limit - len(older))]

    def latest(self, stream: str, limit: int) -> list[Event]:
        """Return the newest events of a stream that are in memory, oldest first."""
        with self._lock:
            found = [event for event in self._newest if event.stream == stream]
        return found[-limit:]

    async def follow(self, after: int, stream: str | None = None) -> AsyncIterator[list[Event]]:
        """Yield pages of new events after an id, until the log closes.

        A listener is a cursor, not a queue: a slow one costs no memory and catches up from the log.
        """
        with self._listening() as woken:
            while not self._closing:
                woken.clear()
                last = self.last
                while page := await self.read(after, PAGE, stream):
                    after = page[-1].id
                    yield page
                after = max(after, last)  # skips the other streams' events at the next look
                await woken.wait()

    def wake(self) -> None:
        """End all subscriptions, since the server is stopping."""
        self._closing = True
        for woken, loop in list(self._listeners.items()):
            loop.call_soon_threadsafe(woken.set)

    def forget(self, older_seconds: float) -> None:
        """Remove older events from the database. Memory is bounded by number instead.

        Raises:
            StoreDownError: If the database does not answer.
        """
        with available(), self._engine.begin() as connection:
            connection.execute(delete(EVENTS).where(EVENTS.c.time < CLOCK.now() - older_seconds))

    def close(self, seconds: float | None = None) -> bool:
        """Write the pending events; return False if that takes longer than `seconds`."""
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
        """Write events as they come, all pending ones in one transaction. Failed ones stay pending."""
        while not self._ended:
            waiting = [self._unwritten.get()]
            while not self._unwritten.empty():
                waiting.append(self._unwritten.get())
            self._ended = None in waiting
            self._pending.extend(event for event in waiting if event is not None)
            self._write_pending()

    def _write_pending(self) -> None:
        try:
            if self._pending:
                self._insert(self._pending)
            self._pending.clear()
            self._forget_written()
        except REFUSED:
            self._write_one_by_one()
        except SQLAlchemyError as error:
            log.error("events_not_written", events=len(self._pending), reason=str(error))

    def _write_one_by_one(self) -> None:
        """Write events one by one that were refused together; skip those already stored and those that cannot be."""
        while self._pending:
            event = self._pending[0]
            try:
                self._insert([event])
            except IntegrityError:
                pass  # an earlier write took effect although its reply was lost
            except REFUSED as error:
                log.error("event_not_stored", kind=event.kind, stream=event.stream, reason=str(error))
            except SQLAlchemyError as error:
                log.error("events_not_written", events=len(self._pending), reason=str(error))
                return
            self._pending.popleft()

    def _insert(self, events: Iterable[Event]) -> None:
        rows = [{**asdict(event), "figures": json.dumps(event.figures)} for event in events]
        with self._engine.begin() as connection:
            connection.execute(EVENTS.insert(), rows)

    def _forget_written(self) -> None:
        """Drop the oldest events from memory that the database has stored."""
        with self._lock:
            waiting = self._unwritten.qsize()
            while len(self._newest) > IN_MEMORY + waiting:
                self._newest.popleft()


def _newest(engine: Engine) -> list[Event]:
    """Return the newest events, oldest first."""
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(EVENTS).order_by(EVENTS.c.id.desc()).limit(IN_MEMORY)).all()
        return [_event(row) for row in reversed(rows)]
    except (ValueError, SQLAlchemyError) as error:
        raise SettingsError(f"the event log cannot be read: {error}") from None


def _event(row: Any) -> Event:
    return Event(row.id, row.time, row.kind, row.stream, row.model, row.action, row.reason, json.loads(row.figures))
