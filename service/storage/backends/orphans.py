"""Detects a lost catalogue: one without streams next to checkpoints, where streams would silently start over."""

from sqlalchemy import Engine, select

from service.errors import SettingsError
from service.storage.backends.blobs import Blobs
from service.storage.backends.catalogue import CHECKPOINTS
from service.storage.backends.database import available
from service.storage.backends.garbage import ALL
from service.storage.backends.tables import GARBAGE, STREAMS
from service.telemetry.logs import log


def check(engine: Engine, checkpoints: Blobs, place: str, *, new_catalogue: bool) -> None:
    """Check that a catalogue without streams has no unknown checkpoints, unless `new_catalogue` is set.

    The checkpoints stay in either case.

    Raises:
        SettingsError: If there are such checkpoints; the message names `place`.
    """
    if _knows_streams(engine):
        return
    unknown = _unknown(engine, checkpoints)
    if not unknown or _knows_streams(engine):  # another process may have created its first stream in between
        return
    if not new_catalogue:
        raise SettingsError(
            f"the catalogue knows no streams, but there are {unknown} checkpoints of streams in {place}: the catalogue "
            "was lost or replaced; put back a backup of it, or start with --new-catalogue to begin without these "
            "streams (the checkpoints stay where they are)"
        )
    log.warning("checkpoints_unknown", checkpoints=unknown, place=place)


def _knows_streams(engine: Engine) -> bool:
    with available(), engine.connect() as connection:
        return connection.execute(select(STREAMS.c.id).limit(1)).first() is not None


def _unknown(engine: Engine, checkpoints: Blobs) -> int:
    """Count the checkpoints that are not noted as garbage; those of ended streams are noted."""
    names = list(checkpoints.names())
    if not names:
        return 0
    with available(), engine.connect() as connection:
        noted = {blob.partition("/")[2] for blob in connection.execute(select(GARBAGE.c.blob)).scalars()
                 if blob.startswith(f"{CHECKPOINTS}/")}  # fmt: skip
    return sum(name not in noted and f"{name.partition('-')[0]}{ALL}" not in noted for name in names)
