"""SQLite's catalogue file: how it is opened, checked before anything relies on it, and guarded while it is open."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

from service.errors import SettingsError, StoreDownError
from service.storage.backends.presence import Presence

BUSY_SECONDS = 5
"""How long SQLite waits for another writer."""
CHECK_SECONDS = 20.0
"""Longest check of a file at the start; one of a gigabyte takes about five seconds."""
CHECK_EVERY = 100_000
"""SQLite's instructions between two looks at the clock."""
WAY_ON = (
    "keep a copy of it and put back a backup; without one, move it and its -wal file away and start with "
    "--new-catalogue: snapshots are then taken in again, streams begin anew"
)


def file_of(url: URL) -> Path | None:
    """Return the file that a SQLite URL names; None for a database in memory."""
    return Path(url.database) if url.database and url.database != ":memory:" else None


def open_engine(url: URL) -> Engine:
    """Return an engine whose commits survive a power cut."""
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _durable)
    return engine


def check_file(file: Path, *, new_catalogue: bool) -> None:
    """Refuse a file that is empty or damaged; one that is not there yet is fine.

    An empty file is refused because SQLite takes it for a new database: the server would start without its streams.

    Raises:
        SettingsError: If the file is empty and `new_catalogue` is not set, or it is damaged.
    """
    if not file.exists():
        return
    if file.stat().st_size == 0:
        if not new_catalogue:
            raise SettingsError(f"the catalogue {file} is empty (0 bytes), expected a SQLite database; {WAY_ON}")
        return
    fault = _fault(file)
    if fault:
        raise SettingsError(f"the catalogue {file} is damaged ({fault}), expected a SQLite database; {WAY_ON}")


def _fault(file: Path) -> str:
    """Return what SQLite finds wrong with a file; "" if nothing, or if the time for the check is over."""
    deadline = time.monotonic() + CHECK_SECONDS
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS)
    try:
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), CHECK_EVERY)
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return ""
        raise
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        connection.close()
    return "" if found == "ok" else " ".join(str(found).split())


def guard(engine: Engine, presence: Presence) -> None:
    """Refuse every transaction once the file is gone or is another one.

    An open connection would write to the unlinked file, and a new connection would make an empty one in its place.
    """

    def refuse(*_: Any) -> None:
        if presence.lost():  # the path is for the log alone: clients read this
            raise StoreDownError("the database does not answer (its file is gone or was replaced); nothing was changed")

    event.listen(engine, "do_connect", refuse)
    event.listen(engine, "checkout", refuse)


def _durable(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
