"""The last answers of ended streams in the catalogue: written when a stream is removed, read at the next start."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, Engine, delete, func, insert, select

from service.storage.backends.answers import Kept
from service.storage.backends.database import available
from service.storage.backends.tables import ENDED_ANSWERS
from service.support.clock import CLOCK


def keep(connection: Connection, stream_id: str, answers: Sequence[Kept]) -> None:
    """Replace the answers kept for an ended stream, in the transaction that removes it."""
    connection.execute(delete(ENDED_ANSWERS).where(ENDED_ANSWERS.c.stream == stream_id))
    rows = [
        {"stream": stream_id, "place": place, "time": CLOCK.now(), **asdict(kept)} for place, kept in enumerate(answers)
    ]
    if rows:
        connection.execute(insert(ENDED_ANSWERS), rows)


def read(engine: Engine, seconds: float, stream_id: str | None = None) -> dict[str, list[Kept]]:
    """Return the answers of all streams, or of one, that ended in the last `seconds`, in the order of their ends."""
    query = select(ENDED_ANSWERS).where(ENDED_ANSWERS.c.time > CLOCK.now() - seconds)
    if stream_id is not None:
        query = query.where(ENDED_ANSWERS.c.stream == stream_id)
    found: dict[str, list[Kept]] = {}
    with available(), engine.connect() as connection:
        for row in connection.execute(query.order_by(ENDED_ANSWERS.c.time, ENDED_ANSWERS.c.place)):
            found.setdefault(row.stream, []).append(Kept(row.request, row.key, row.digest, bytes(row.content)))
    return found


def forget(engine: Engine, seconds: float, size_bytes: int) -> None:
    """Remove answers that are older than `seconds`, and the oldest while all together exceed `size_bytes`."""
    with available(), engine.begin() as connection:
        connection.execute(delete(ENDED_ANSWERS).where(ENDED_ANSWERS.c.time < CLOCK.now() - seconds))
        size = func.length(ENDED_ANSWERS.c.content)
        too_many = int(connection.execute(select(func.sum(size))).scalar() or 0) - size_bytes
        if too_many <= 0:
            return
        for row in connection.execute(select(ENDED_ANSWERS.c.time, size).order_by(ENDED_ANSWERS.c.time)):
            too_many -= int(row[1])
            if too_many <= 0:
                connection.execute(delete(ENDED_ANSWERS).where(ENDED_ANSWERS.c.time <= row[0]))
                return
