"""Unreferenced blobs. Each blob is noted here before it is written, so that a crash never leaves one behind.

Only noted blobs are ever removed. A blob that somebody else put there is left alone.
"""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from service.storage.backends.blobs import Blobs
from service.storage.backends.database import available
from service.storage.backends.tables import GARBAGE, STREAMS
from service.support.clock import CLOCK

ALL = "-*"
"""Suffix of a note that stands for all blobs whose names begin with the rest of it and a hyphen."""
GRACE_SECONDS = 600.0
"""Seconds that an unreferenced blob is kept; longer than any write takes."""


def note(connection: Connection, blobs: Iterable[str]) -> None:
    """Note blobs, as `place/name`, that nothing refers to after this transaction. Noting one again renews its time."""
    rows = [{"blob": blob, "time": CLOCK.now()} for blob in blobs]
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        on_postgresql = postgresql.insert(GARBAGE)
        newer = {"time": on_postgresql.excluded.time}
        connection.execute(on_postgresql.on_conflict_do_update(index_elements=["blob"], set_=newer), rows)
    else:
        on_sqlite = sqlite.insert(GARBAGE)
        newer = {"time": on_sqlite.excluded.time}
        connection.execute(on_sqlite.on_conflict_do_update(index_elements=["blob"], set_=newer), rows)


def take_back(connection: Connection, blob: str) -> bool:
    """Remove a blob's note since something refers to it now; return False if the blob may be removed already."""
    return bool(connection.execute(delete(GARBAGE).where(GARBAGE.c.blob == blob)).rowcount)


def collect(engine: Engine, places: Mapping[str, Blobs], older_seconds: float = GRACE_SECONDS) -> int:
    """Remove the blobs that were noted long enough ago; return the number of notes. A name with `-*` is a prefix."""
    with available(), engine.connect() as connection:
        old = select(GARBAGE.c.blob).where(GARBAGE.c.time < CLOCK.now() - older_seconds)
        noted = list(connection.execute(old).scalars())
    for place, blobs in places.items():
        here = [blob.partition("/")[2] for blob in noted if blob.startswith(f"{place}/")]
        for name in here:
            if not name.endswith(ALL):
                blobs.delete(name)
        _collect_prefixes(engine, blobs, {name.removesuffix(ALL) for name in here if name.endswith(ALL)})
    with available(), engine.begin() as connection:
        for blob in noted:
            take_back(connection, blob)
    return len(noted)


def _collect_prefixes(engine: Engine, blobs: Blobs, prefixes: set[str]) -> None:
    """Remove all blobs with one of these prefixes, except those that streams refer to, in one listing."""
    if not prefixes:
        return
    with available(), engine.connect() as connection:
        kept = set(connection.execute(select(STREAMS.c.blob)).scalars())
    for name in [name for name in blobs.names() if name.partition("-")[0] in prefixes and name not in kept]:
        blobs.delete(name)
