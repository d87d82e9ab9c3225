"""The catalogue of streams: claimed by epoch, and advanced by compare-and-swap on (generation, epoch)."""

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
"""The folder of the blobs that streams refer to."""
HEADROOM = 1000
"""Generations that a claimed stream may take between writes to the catalogue; after a crash it skips them."""


@dataclass(frozen=True, slots=True)
class Move:
    """A stream's next row, the generation and the blob of its present row, and its answers."""

    record: Record
    before: int
    replaced: str
    answers: Sequence[Kept]


class Catalogue:
    """The streams of all processes that share a database.

    Each process has a random token. The blob names reserved for a stream begin with the token of the process that
    claimed it. So a process recognises its own rows even if the database's reply to a write was lost.

    Attributes:
        unsure_claims: Ids of streams with a claim that the database has not confirmed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._token = secrets.token_hex(6)
        self.unsure_claims: set[str] = set()

    def reservation(self) -> str:
        """Return a new name prefix for a stream's blobs. It is unique."""
        return f"{self._token}{secrets.token_hex(8)}"

    def check(self) -> None:
        """Run an empty query, to see whether the database answers.

        Raises:
            StoreDownError: If it does not; every method here may raise this.
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
        """Add a stream, or replace a row that this process enrolled earlier; return the row's epoch.

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
        """Claim a stream for this process, so that its previous owner can no longer advance it.

        Call it only for a stream that this process does not have in memory. If this process claimed the row before and
        wrote nothing since, the reply was lost or the stream could not be built. No generation was made under that
        claim, so it is undone first; otherwise generations would seem to be lost.

        Returns:
            The record before and after the claim, and the answers; None if there is no such stream.
        """
        self.unsure_claims.add(stream_id)
        with available(), self._engine.begin() as connection:
            self._undo_claim(connection, stream_id)
            claimed = _claimed(connection, STREAMS.c.id == stream_id, self.reservation())
            answers = [] if claimed is None else _answers(connection, stream_id)
        self.unsure_claims.discard(stream_id)
        return None if claimed is None else (*claimed, answers)

    def undo_unsure_claims(self) -> None:
        """Undo the claims whose replies were lost, at the stop, so that the next process sees no lost generations."""
        with available(), self._engine.begin() as connection:
            for stream_id in sorted(self.unsure_claims):
                self._undo_claim(connection, stream_id)

    def reclaim(self, stream_id: str) -> Record | None:
        """Claim one of this process's streams again, so that a pending write of unknown outcome can no longer succeed.

        Returns:
            Its record; None if there is no such stream.

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
        """Return whether this process made the last claim of a stream, later than the claim in `record`."""
        later = self._own(record.id) & (STREAMS.c.reserved != record.reserved)
        with available(), self._engine.connect() as connection:
            return connection.execute(select(STREAMS.c.id).where(later)).first() is not None

    def advance(self, moves: Iterable[Move]) -> set[str]:
        """Advance streams in one transaction; return the ids of those that now belong to another process."""
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
        """Remove a stream that is claimed under this epoch and reservation, and keep its last answers.

        Return False if there is no such row.
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
        """Keep the last answers of a stream whose row was removed earlier."""
        with available(), self._engine.begin() as connection:
            ended.keep(connection, stream_id, answers)

    def ended(self, seconds: float, stream_id: str | None = None) -> dict[str, list[Kept]]:
        """Return the last answers of all streams, or of one, that ended in the last `seconds`."""
        return ended.read(self._engine, seconds, stream_id)

    def forget_ended(self, seconds: float, size_bytes: int) -> None:
        """Remove answers of ended streams that are older than `seconds`, and the oldest beyond `size_bytes`."""
        ended.forget(self._engine, seconds, size_bytes)

    def _undo_claim(self, connection: Connection, stream_id: str) -> None:
        """Lower the ceiling of a row that this process claimed and has not written since. Change no other row."""
        unused = self._own(stream_id) & (STREAMS.c.ceiling > STREAMS.c.generation) & (STREAMS.c.durability != "sync")
        connection.execute(update(STREAMS).where(unused).values(ceiling=STREAMS.c.ceiling - HEADROOM))

    def _own(self, stream_id: str) -> ColumnElement[bool]:
        return (STREAMS.c.id == stream_id) & STREAMS.c.reserved.startswith(self._token)


def _answers(connection: Connection, stream_id: str) -> list[Kept]:
    rows = connection.execute(select(ANSWERS).where(ANSWERS.c.stream == stream_id).order_by(ANSWERS.c.place))
    return [Kept(row.request, row.key, row.digest, bytes(row.content)) for row in rows]


def _claimed(connection: Connection, which: ColumnElement[bool], reserved: str) -> tuple[Record, Record] | None:
    """Claim a row under a new reservation; return its record before and after, or None if there is none."""
    if not connection.execute(update(STREAMS).where(which).values(epoch=STREAMS.c.epoch + 1)).rowcount:
        return None
    before = Record(**connection.execute(select(STREAMS).where(which)).mappings().one())
    ceiling = before.ceiling if before.durability == "sync" else before.ceiling + HEADROOM
    after = replace(before, reserved=reserved, ceiling=ceiling)
    connection.execute(update(STREAMS).where(which).values(reserved=reserved, ceiling=ceiling))
    _note_blobs(connection, before.reserved)
    return before, after


def _note_reserved(connection: Connection, which: ColumnElement[bool]) -> None:
    """Note the blobs of a row that is about to be replaced as garbage, if there is such a row."""
    reserved = connection.execute(select(STREAMS.c.reserved).where(which)).scalar()
    if reserved is not None:
        _note_blobs(connection, reserved)


def _note_blobs(connection: Connection, reserved: str) -> None:
    garbage.note(connection, [f"{CHECKPOINTS}/{reserved}{garbage.ALL}"])


def _swapped(connection: Connection, move: Move) -> bool:
    record = move.record
    claimed = (STREAMS.c.epoch == record.epoch) & (STREAMS.c.reserved == record.reserved)
    there = (STREAMS.c.id == record.id) & (STREAMS.c.generation == move.before) & claimed
    return bool(connection.execute(update(STREAMS).where(there).values(**asdict(record))).rowcount)


def _keep_answers(connection: Connection, move: Move) -> None:
    """Replace a stream's answers by the move's. A stored answer is not rewritten, since it never changes."""
    of_stream = ANSWERS.c.stream == move.record.id
    places = select(ANSWERS.c.request, ANSWERS.c.key, ANSWERS.c.digest, ANSWERS.c.place).where(of_stream)
    there = {(row.request, row.key, row.digest): row.place for row in connection.execute(places)}
    dropped = there.keys() - {kept.identity for kept in move.answers}
    if dropped:
        connection.execute(delete(ANSWERS).where(of_stream & ANSWERS.c.place.in_([there[each] for each in dropped])))
    new = [kept for kept in move.answers if kept.identity not in there]
    first = max(there.values(), default=0) + 1
    rows = [{"stream": move.record.id, "place": place, **asdict(kept)} for place, kept in enumerate(new, first)]
    if rows:
        connection.execute(insert(ANSWERS), rows)
