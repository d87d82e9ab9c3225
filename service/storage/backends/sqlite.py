"""SQLite's catalogue file: opened, checked at the start, and guarded while it is open."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

from service.errors import SettingsError, StoreDownError
from service.storage.backends.presence import Presence

BUSY_SECONDS = 5
"""Seconds that SQLite waits for another writer."""
CHECK_SECONDS = 20.0
"""Time limit for the check at the start. A file of a gigabyte takes about five seconds."""
CHECK_EVERY = 100_000
"""SQLite instructions between two looks at the clock."""
WAY_ON = (
    "keep a copy of it and put back a backup; without one, move it and its -wal file away and start with "
    "--new-catalogue: it adds the snapshots again, and streams start over"
)


def file_of(url: URL) -> Path | None:
    """Return the file of a SQLite URL; None for a database in memory."""
    return Path(url.database) if url.database and url.database != ":memory:" else None


def open_engine(url: URL) -> Engine:
    """Return an engine whose commits survive a power cut."""
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _durable)
    return engine


def check_file(file: Path, *, new_catalogue: bool) -> None:
    """Check that a file is neither empty nor damaged, if it exists.

    An empty file is refused because SQLite takes it for a new database: the server would start without its streams.

    Raises:
        SettingsError: If the file is empty and `new_catalogue` is not set, or if it is damaged.
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
    """Return the fault that SQLite finds in a file; "" if there is none, or if the check runs out of time."""
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
    """Refuse every transaction once the file is gone or was replaced.

    Otherwise an open connection would write to the unlinked file, and a new one would create an empty file.
    """

    def refuse(*_: Any) -> None:
        if presence.lost():  # clients read the message, so the path is in the log only
            raise StoreDownError("the database does not answer (its file is gone or was replaced); nothing was changed")

    event.listen(engine, "do_connect", refuse)
    event.listen(engine, "checkout", refuse)


def _durable(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
