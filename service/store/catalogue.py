"""Streams in the catalogue: claimed by an epoch, and moved on by compare-and-swap on (generation, epoch)."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from service.errors import ConflictError
from service.store import garbage
from service.store.database import available
from service.store.tables import ANSWERS, STREAMS

CHECKPOINTS = "checkpoints"
"""The place of the blobs that streams refer to."""
HEADROOM = 1000
"""Generations that a claimed stream may go on without the catalogue; after a crash it goes on beyond them."""


@dataclass(frozen=True, slots=True)
class Record:
    """A stream in the catalogue.

    Attributes:
        id, model, fingerprint, adapter, durability: What it is.
        settings: JSON of options, mode, guard and adaptation batch.
        figures: JSON of counts that are shown.
        generation: The last durable one.
        ceiling: No process has made a generation beyond this one; equal to `generation` unless a process claims it.
        epoch: Rises with each claim.
        blob: Where the state is; "" for the one before any batch.
        reserved: How the names of the next blobs begin.
        created, last_used: Unix seconds.
    """

    id: str
    model: str
    fingerprint: str
    adapter: str
    durability: str
    settings: str
    figures: str
    generation: int
    ceiling: int
    epoch: int
    blob: str
    reserved: str
    created: float
    last_used: float


@dataclass(frozen=True, slots=True)
class Kept:
    """An answered request that a retry is answered by."""

    request: str
    key: str
    digest: str
    content: bytes

    @property
    def asked(self) -> tuple[str, str, str]:
        """What identifies the request: id, idempotency key, digest of the body."""
        return self.request, self.key, self.digest


@dataclass(frozen=True, slots=True)
class Move:
    """A stream moved on: the record as it is to be, the generation and the blob that are there, and its answers."""

    record: Record
    before: int
    replaced: str
    answers: Sequence[Kept]


def reservation() -> str:
    """Return how the names of a stream's next blobs begin; nobody else's do."""
    return secrets.token_hex(12)


class Catalogue:
    """The streams of all processes that share a database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def check(self) -> None:
        """Ask the database for nothing.

        Raises:
            StoreDownError: If it does not answer; so do all calls here.
        """
        with available(), self._engine.connect() as connection:
            connection.execute(select(1))

    def records(self) -> list[Record]:
        """Return all streams."""
        with available(), self._engine.connect() as connection:
            return [Record(**row) for row in connection.execute(select(STREAMS)).mappings()]

    def enrol(self, record: Record) -> None:
        """Add a stream.

        Raises:
            ConflictError: If there is one of this id.
        """
        with available(), self._engine.begin() as connection:
            try:
                connection.execute(insert(STREAMS).values(**asdict(record)))
            except IntegrityError:
                raise ConflictError(f"there is a stream {record.id!r} already, of another process") from None

    def claim(self, stream_id: str) -> tuple[Record, Record, list[Kept]] | None:
        """Make a stream this process's own: whoever had it can move it on no more.

        Return its record as it was and as it is now, and its answers; None if there is no such stream.
        """
        reserved = reservation()
        with available(), self._engine.begin() as connection:
            mine = STREAMS.c.id == stream_id
            claimed = connection.execute(update(STREAMS).where(mine).values(epoch=STREAMS.c.epoch + 1)).rowcount
            if not claimed:
                return None
            before = Record(**connection.execute(select(STREAMS).where(mine)).mappings().one())
            ceiling = before.ceiling if before.durability == "sync" else before.ceiling + HEADROOM
            after = replace(before, reserved=reserved, ceiling=ceiling)
            connection.execute(update(STREAMS).where(mine).values(reserved=reserved, ceiling=ceiling))
            garbage.note(connection, [f"{CHECKPOINTS}/{before.reserved}{garbage.ALL}"])
            rows = connection.execute(select(ANSWERS).where(ANSWERS.c.stream == stream_id).order_by(ANSWERS.c.place))
            answers = [Kept(row.request, row.key, row.digest, bytes(row.content)) for row in rows]
        return before, after, answers

    def advance(self, moves: Iterable[Move]) -> set[str]:
        """Move streams on in one transaction; return the ids of those that are another process's now."""
        fenced = set()
        with available(), self._engine.begin() as connection:
            for move in moves:
                if not _swapped(connection, move):
                    fenced.add(move.record.id)
                    continue
                _keep_answers(connection, move)
                if move.replaced:
                    garbage.note(connection, [f"{CHECKPOINTS}/{move.replaced}"])
        return fenced

    def remove(self, stream_id: str, epoch: int) -> bool:
        """Forget a stream; False if it is another process's now."""
        with available(), self._engine.begin() as connection:
            mine = (STREAMS.c.id == stream_id) & (STREAMS.c.epoch == epoch)
            record = connection.execute(
                delete(STREAMS).where(mine).returning(STREAMS.c.blob, STREAMS.c.reserved)
            ).first()
            if record is None:
                return False
            connection.execute(delete(ANSWERS).where(ANSWERS.c.stream == stream_id))
            garbage.note(
                connection, [f"{CHECKPOINTS}/{name}" for name in (record.blob, record.reserved + garbage.ALL) if name]
            )
        return True


def _swapped(connection: Connection, move: Move) -> bool:
    record = move.record
    there = (STREAMS.c.id == record.id) & (STREAMS.c.generation == move.before) & (STREAMS.c.epoch == record.epoch)
    return bool(connection.execute(update(STREAMS).where(there).values(**asdict(record))).rowcount)


def _keep_answers(connection: Connection, move: Move) -> None:
    """Make a stream's answers these; an answer never changes."""
    of_stream = ANSWERS.c.stream == move.record.id
    places = select(ANSWERS.c.request, ANSWERS.c.key, ANSWERS.c.digest, ANSWERS.c.place).where(of_stream)
    there = {(row.request, row.key, row.digest): row.place for row in connection.execute(places)}
    left = there.keys() - {kept.asked for kept in move.answers}
    if left:
        connection.execute(delete(ANSWERS).where(of_stream & ANSWERS.c.place.in_([there[asked] for asked in left])))
    new = [kept for kept in move.answers if kept.asked not in there]
    first = max(there.values(), default=0) + 1
    rows = [{"stream": move.record.id, "place": place, **asdict(kept)} for place, kept in enumerate(new, first)]
    if rows:
        connection.execute(insert(ANSWERS), rows)
