"""Streams in the catalogue: claimed by an epoch, and moved on by compare-and-swap on (generation, epoch)."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from service.errors import ConflictError
from service.storage.backends import ended_rows as ended
from service.storage.backends import garbage
from service.storage.backends.answers import Kept
from service.storage.backends.database import available
from service.storage.backends.tables import ANSWERS, STREAMS
from service.streams.records import Record

CHECKPOINTS = "checkpoints"
"""The place of the blobs that streams refer to."""
HEADROOM = 1000
"""Generations that a claimed stream may go on without the catalogue; after a crash it goes on beyond them."""


@dataclass(frozen=True, slots=True)
class Move:
    """A stream moved on: the record as it is to be, the generation and the blob that are there, and its answers."""

    record: Record
    before: int
    replaced: str
    answers: Sequence[Kept]


class Catalogue:
    """The streams of all processes that share a database.

    Each process has a random token, and a stream's row begins its reservation with the token of the process that
    claimed it. So a process recognises a row that it wrote itself where the database's reply was lost.

    Attributes:
        unsure_claims: Ids of streams whose claim has not been answered, as yet or ever.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._token = secrets.token_hex(6)
        self.unsure_claims: set[str] = set()

    def reservation(self) -> str:
        """Return how the names of a stream's next blobs begin; nobody else's do."""
        return f"{self._token}{secrets.token_hex(8)}"

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

    def find(self, stream_id: str) -> Record | None:
        """Return a stream, or None."""
        with available(), self._engine.connect() as connection:
            row = connection.execute(select(STREAMS).where(STREAMS.c.id == stream_id)).mappings().first()
        return None if row is None else Record(**row)

    def enrol(self, record: Record) -> int:
        """Add a stream, or replace the row that an enrolment by this process left; return the row's epoch.

        Raises:
            ConflictError: If another process has a stream of this id.
        """
        insert_row = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        values = asdict(record)
        with available(), self._engine.begin() as connection:
            _note_reserved(connection, self._own(record.id))
            done = connection.execute(
                insert_row(STREAMS)
                .values(**values)
                .on_conflict_do_update(
                    index_elements=[STREAMS.c.id],
                    set_={**values, "epoch": STREAMS.c.epoch + 1},
                    where=self._own(record.id),
                )
                .returning(STREAMS.c.epoch)
            ).first()
            if done is None:
                raise ConflictError(f"there is a stream {record.id!r} already, of another process")
        return int(done.epoch)

    def claim(self, stream_id: str) -> tuple[Record, Record, list[Kept]] | None:
        """Make a stream this process's own: whoever had it can move it on no more.

        Call it only for a stream that this process does not have in memory. If the process claimed the row before and
        nothing was written since, the reply was lost or the stream could not be built. No generation was made under
        that claim, so it is undone first: else the stream would seem to have lost generations.

        Return its record as it was and as it is now, and its answers; None if there is no such stream.
        """
        self.unsure_claims.add(stream_id)
        with available(), self._engine.begin() as connection:
            self._undo_claim(connection, stream_id)
            claimed = _claimed(connection, STREAMS.c.id == stream_id, self.reservation())
            answers = [] if claimed is None else _answers(connection, stream_id)
        self.unsure_claims.discard(stream_id)
        return None if claimed is None else (*claimed, answers)

    def undo_unsure_claims(self) -> None:
        """Undo the claims whose replies were lost, for the next process; at the stop, once all streams are kept."""
        with available(), self._engine.begin() as connection:
            for stream_id in sorted(self.unsure_claims):
                self._undo_claim(connection, stream_id)

    def reclaim(self, stream_id: str) -> Record | None:
        """Claim a stream of this process anew, so that a write of unknown outcome cannot take effect any more.

        Return its record; None if there is no such stream.

        Raises:
            ConflictError: If another process has claimed it.
        """
        with available(), self._engine.begin() as connection:
            claimed = _claimed(connection, self._own(stream_id), self.reservation())
            if claimed is not None:
                return claimed[1]
            if connection.execute(select(STREAMS.c.id).where(STREAMS.c.id == stream_id)).first():
                raise ConflictError(f"stream {stream_id!r} was claimed by another process")
        return None

    def has_reclaimed(self, record: Record) -> bool:
        """Tell whether the last claim of a stream was this process's, and a later one than a record's."""
        later = self._own(record.id) & (STREAMS.c.reserved != record.reserved)
        with available(), self._engine.connect() as connection:
            return connection.execute(select(STREAMS.c.id).where(later)).first() is not None

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

    def remove(self, stream_id: str, epoch: int, reserved: str, answers: Sequence[Kept] = ()) -> bool:
        """Forget a stream that is claimed under an epoch and a reservation, but for its last answers.

        Return False if there is none.
        """
        with available(), self._engine.begin() as connection:
            mine = (STREAMS.c.id == stream_id) & (STREAMS.c.epoch == epoch) & (STREAMS.c.reserved == reserved)
            blob = connection.execute(delete(STREAMS).where(mine).returning(STREAMS.c.blob)).scalar()
            if blob is None:
                return False
            connection.execute(delete(ANSWERS).where(ANSWERS.c.stream == stream_id))
            ended.keep(connection, stream_id, answers)
            garbage.note(connection, [f"{CHECKPOINTS}/{name}" for name in (blob, reserved + garbage.ALL) if name])
        return True

    def keep_ended(self, stream_id: str, answers: Sequence[Kept]) -> None:
        """Keep the last answers of a stream whose row was removed before."""
        with available(), self._engine.begin() as connection:
            ended.keep(connection, stream_id, answers)

    def ended(self, seconds: float, stream_id: str | None = None) -> dict[str, list[Kept]]:
        """Return the last answers of all streams, or of one, that ended within so many seconds."""
        return ended.read(self._engine, seconds, stream_id)

    def forget_ended(self, seconds: float, size_bytes: int) -> None:
        """Remove these answers that are older than so many seconds, and the oldest beyond so many bytes."""
        ended.forget(self._engine, seconds, size_bytes)

    def _undo_claim(self, connection: Connection, stream_id: str) -> None:
        """Lower the ceiling of a row that this process has claimed and not written since; of others do nothing."""
        unused = self._own(stream_id) & (STREAMS.c.ceiling > STREAMS.c.generation) & (STREAMS.c.durability != "sync")
        connection.execute(update(STREAMS).where(unused).values(ceiling=STREAMS.c.ceiling - HEADROOM))

    def _own(self, stream_id: str) -> ColumnElement[bool]:
        return (STREAMS.c.id == stream_id) & STREAMS.c.reserved.startswith(self._token)


def _answers(connection: Connection, stream_id: str) -> list[Kept]:
    rows = connection.execute(select(ANSWERS).where(ANSWERS.c.stream == stream_id).order_by(ANSWERS.c.place))
    return [Kept(row.request, row.key, row.digest, bytes(row.content)) for row in rows]


def _claimed(connection: Connection, which: ColumnElement[bool], reserved: str) -> tuple[Record, Record] | None:
    """Claim a row under a new reservation; return its record before and after, None if there is none."""
    if not connection.execute(update(STREAMS).where(which).values(epoch=STREAMS.c.epoch + 1)).rowcount:
        return None
    before = Record(**connection.execute(select(STREAMS).where(which)).mappings().one())
    ceiling = before.ceiling if before.durability == "sync" else before.ceiling + HEADROOM
    after = replace(before, reserved=reserved, ceiling=ceiling)
    connection.execute(update(STREAMS).where(which).values(reserved=reserved, ceiling=ceiling))
    _note_blobs(connection, before.reserved)
    return before, after


def _note_reserved(connection: Connection, which: ColumnElement[bool]) -> None:
    """Note the blobs of a row that is about to be replaced, if there is one."""
    left = connection.execute(select(STREAMS.c.reserved).where(which)).scalar()
    if left is not None:
        _note_blobs(connection, left)


def _note_blobs(connection: Connection, reserved: str) -> None:
    garbage.note(connection, [f"{CHECKPOINTS}/{reserved}{garbage.ALL}"])


def _swapped(connection: Connection, move: Move) -> bool:
    record = move.record
    claimed = (STREAMS.c.epoch == record.epoch) & (STREAMS.c.reserved == record.reserved)
    there = (STREAMS.c.id == record.id) & (STREAMS.c.generation == move.before) & claimed
    return bool(connection.execute(update(STREAMS).where(there).values(**asdict(record))).rowcount)


def _keep_answers(connection: Connection, move: Move) -> None:
    """Make a stream's answers these; an answer to the same id and body never changes."""
    of_stream = ANSWERS.c.stream == move.record.id
    places = select(ANSWERS.c.request, ANSWERS.c.key, ANSWERS.c.digest, ANSWERS.c.place).where(of_stream)
    there = {(row.request, row.key, row.digest): row.place for row in connection.execute(places)}
    left = there.keys() - {kept.identity for kept in move.answers}
    if left:
        connection.execute(delete(ANSWERS).where(of_stream & ANSWERS.c.place.in_([there[each] for each in left])))
    new = [kept for kept in move.answers if kept.identity not in there]
    first = max(there.values(), default=0) + 1
    rows = [{"stream": move.record.id, "place": place, **asdict(kept)} for place, kept in enumerate(new, first)]
    if rows:
        connection.execute(insert(ANSWERS), rows)
