"""The database of the catalogue and the event log: opened, migrated, and locked for one process or for sharing."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from service.errors import SettingsError, StoreDownError, StoreFullError
from service.storage.backends import postgresql, sqlite
from service.storage.backends.presence import Presence
from service.storage.backends.tables import PROCESSES
from service.storage.store_calls import SECONDS

MIGRATIONS = Path(__file__).parent / "migrations"
OWNER_LOCK, MIGRATION_LOCK = 0x61636C31, 0x61636C32
"""Keys of PostgreSQL's advisory locks: arbitrary numbers, unlikely to be used by anybody else."""
LOCK_FILE = "acclimate.lock"
FULL = ("disk is full", "readonly database", "No space left")
"""Fragments of SQLite's and PostgreSQL's errors when they cannot write."""


class FileLock:
    """A file lock that ends with the process. `taken` is False if another process holds the lock."""

    def __init__(self, file: Path, *, shared: bool) -> None:
        self._handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
        self.taken = True
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.taken = False

    def close(self) -> None:
        """Release the lock."""
        os.close(self._handle)


@dataclass(slots=True)
class Database:
    """An open database, and the lock that keeps other processes out.

    Attributes:
        engine: SQLAlchemy's engine.
        process: This process's number on this store, from 1, greater than all earlier ones.
        file: SQLite's file; None for another database.
    """

    engine: Engine
    process: int
    file: Path | None = None
    _owner: Any = None

    def close(self) -> None:
        """Release the lock and close all connections."""
        if self._owner is not None:
            self._owner.close()
        self.engine.dispose()


def open_database(
    url: str, data: Path, *, sharded: bool, new_catalogue: bool = False, store_seconds: float = SECONDS
) -> Database:
    """Open the catalogue at a SQLAlchemy URL; without one, open SQLite in the data folder.

    A connection to PostgreSQL whose peer is gone ends after about `store_seconds`.

    Raises:
        SettingsError: If the database cannot be opened, is damaged or of a newer version, or if another process owns
            it and the two are not both sharded.
    """
    chosen = url or f"sqlite:///{data / 'acclimate.db'}"
    owner = None
    try:
        data.mkdir(parents=True, exist_ok=True)
        engine = _engine(chosen, store_seconds)
        owner = _own(engine, data, sharded=sharded)
        file = sqlite.file_of(engine.url) if engine.dialect.name == "sqlite" else None
        if file is not None:
            sqlite.check_file(file, new_catalogue=new_catalogue)
        _check_schema(engine)
        _migrate(engine)
        if file is not None:
            sqlite.guard(engine, Presence.of([file]))
        with engine.begin() as connection:
            made = connection.execute(insert(PROCESSES).values(started=time.time()))
        return Database(engine, _number(made.inserted_primary_key), file, owner)
    except SettingsError:
        _close(owner)
        raise
    except (OSError, ValueError, SQLAlchemyError, ImportError, CommandError, sqlite3.Error) as error:
        _close(owner)
        said = str(error).splitlines()[0]
        raise SettingsError(f"the database {_shown(chosen)} cannot be opened: {said}") from None


def _close(owner: Any) -> None:
    if owner is not None:
        owner.close()


@contextmanager
def available() -> Iterator[None]:
    """Turn database errors into refusals that ask the client to try again.

    Raises:
        StoreFullError: If the disk is full, or the file is read-only.
        StoreDownError: If the database call in the block fails otherwise.
    """
    try:
        yield
    except SQLAlchemyError as error:
        said = str(error).splitlines()[0][:200]
        if any(words in said for words in FULL):
            raise StoreFullError(f"the database could not be written ({said}); nothing was changed") from error
        raise StoreDownError(f"the database does not answer ({said}); nothing was changed") from error


def _number(key: Any) -> int:
    return int(key[0])


def _engine(url: str, store_seconds: float) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return sqlite.open_engine(parsed)
    if parsed.get_backend_name() == "postgresql":
        return postgresql.open_engine(parsed, store_seconds)
    raise ValueError(f"expected sqlite:///FILE or postgresql+psycopg://..., not {parsed.get_backend_name()!r}")


def _own(engine: Engine, data: Path, *, sharded: bool) -> Any:
    """Lock the store: sharded processes share the lock, any other process holds it alone.

    The lock ends with this process, however the process ends.
    """
    said = (
        "another process serves this store; one process owns a store, unless all that share it are started with "
        "sharded=true behind a proxy that sends each stream to one of them"
    )
    if engine.dialect.name == "sqlite":
        lock = FileLock(data / LOCK_FILE, shared=sharded)
        if not lock.taken:
            lock.close()
            raise SettingsError(said)
        return lock
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    locking = "SELECT pg_try_advisory_lock_shared(:name)" if sharded else "SELECT pg_try_advisory_lock(:name)"
    if not connection.execute(text(locking), {"name": OWNER_LOCK}).scalar():
        connection.close()
        raise SettingsError(said)
    return connection


def _check_schema(engine: Engine) -> None:
    """Check that the tables are not of a newer version, before anything is written.

    Raises:
        SettingsError: If this version does not know the schema.
    """
    revisions = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    with engine.connect() as connection:
        there = MigrationContext.configure(connection).get_current_heads()
    unknown = set(there) - set(revisions)
    if unknown:
        raise SettingsError(
            f"the catalogue {_shown(str(engine.url))} has schema {', '.join(sorted(unknown))}, and this version of "
            f"Acclimate knows schemas up to {revisions[0]}: a newer version made it; start that version, or name "
            "another folder by --data"
        )


def _migrate(engine: Engine) -> None:
    """Migrate the tables to this version, one process at a time."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        _lock_migration(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _lock_migration(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": MIGRATION_LOCK})
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _shown(url: str) -> str:
    """Return a URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "that was given"
