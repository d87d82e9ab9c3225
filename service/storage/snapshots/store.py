"""Snapshots in the store: a row in the catalogue and a self-verifying blob for each."""

import json
import re
from collections.abc import Iterator, Sequence

from sqlalchemy import Engine, delete, insert, select

from service.errors import UnfitError, UnknownError
from service.storage.backends import garbage
from service.storage.backends.blobs import Blobs
from service.storage.backends.database import available
from service.storage.backends.tables import GARBAGE, SNAPSHOTS
from service.storage.snapshots.format import Manifest, parse_manifest, read_manifest, unpack
from service.support.storable_text import storable
from service.telemetry.logs import log

PLACE = "snapshots"
SUFFIX = ".safetensors"
ID = re.compile(r"[0-9a-f]{24}")


class SnapshotStore:
    """Keeps snapshots by id, each of them whole or not at all."""

    def __init__(self, engine: Engine, blobs: Blobs) -> None:
        self._engine = engine
        self._blobs = blobs

    def put(self, snapshot_id: str, file: bytes) -> None:
        """Write a snapshot durably. If one of its id exists, that one stays.

        Raises:
            StoreFullError: If the disk is full or the folder cannot be written.
            StoreDownError: If the database or the object store does not answer.
        """
        with available(), self._engine.begin() as connection:
            if connection.execute(select(SNAPSHOTS.c.id).where(SNAPSHOTS.c.id == snapshot_id)).first():
                return
            garbage.note(connection, [_blob(snapshot_id)])
        self._blobs.put(f"{snapshot_id}{SUFFIX}", file, unpack)
        manifest = read_manifest(file)
        with available(), self._engine.begin() as connection:
            if not garbage.take_back(connection, _blob(snapshot_id)):
                raise UnfitError(f"the snapshot took more than {garbage.GRACE_SECONDS:g} s to write, and is gone")
            connection.execute(insert(SNAPSHOTS).values(**_row(manifest, len(file))))

    def get(self, snapshot_id: str) -> bytes:
        """Return a snapshot's file.

        Raises:
            UnknownError: If there is none of this id.
            UnfitError: If its file is gone.
        """
        self.manifest(snapshot_id)
        try:
            return self._blobs.get(f"{snapshot_id}{SUFFIX}")
        except KeyError:
            raise UnfitError(f"snapshot {snapshot_id!r} is in the catalogue, but its file is gone") from None

    def manifest(self, snapshot_id: str) -> tuple[Manifest, int]:
        """Return a snapshot's manifest, and its file's size in bytes.

        Raises:
            UnknownError: If there is none of this id.
        """
        _check_id(snapshot_id)
        query = select(SNAPSHOTS.c.manifest, SNAPSHOTS.c.size).where(SNAPSHOTS.c.id == snapshot_id)
        with available(), self._engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise UnknownError(f"there is no snapshot {snapshot_id[:200]!r}")
        return parse_manifest(row.manifest), int(row.size)

    def manifests(self, stream: str | None = None) -> Iterator[tuple[Manifest, int]]:
        """Return all manifests, or those of one stream, newest first; those in another version's format are skipped."""
        if stream is not None and not storable(stream):
            return iter(())
        query = select(SNAPSHOTS.c.id, SNAPSHOTS.c.manifest, SNAPSHOTS.c.size).order_by(
            SNAPSHOTS.c.created.desc(), SNAPSHOTS.c.id.desc()
        )
        with available(), self._engine.connect() as connection:
            rows: Sequence[tuple[str, str, int]] = [
                (row.id, row.manifest, int(row.size))
                for row in connection.execute(query if stream is None else query.where(SNAPSHOTS.c.stream == stream))
            ]
        return _readable(rows)

    def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot.

        Raises:
            UnknownError: If there is none of this id.
        """
        _check_id(snapshot_id)
        with available(), self._engine.begin() as connection:
            if not connection.execute(delete(SNAPSHOTS).where(SNAPSHOTS.c.id == snapshot_id)).rowcount:
                raise UnknownError(f"there is no snapshot {snapshot_id[:200]!r}")
            garbage.note(connection, [_blob(snapshot_id)])
        self._blobs.delete(f"{snapshot_id}{SUFFIX}")
        with available(), self._engine.begin() as connection:
            garbage.take_back(connection, _blob(snapshot_id))  # it may be uploaded again

    def adopt(self) -> int:
        """Add snapshots to the catalogue that lie among the blobs only, as an older version left them; return how many.

        Snapshots that are damaged, or that another process is writing, are left alone.
        """
        with available(), self._engine.connect() as connection:
            stored = set(connection.execute(select(SNAPSHOTS.c.id)).scalars())
            noted = set(connection.execute(select(GARBAGE.c.blob)).scalars())
        adopted = 0
        for name in list(self._blobs.names()):
            snapshot_id = name.removesuffix(SUFFIX)
            if ID.fullmatch(snapshot_id) and snapshot_id not in stored and _blob(snapshot_id) not in noted:
                adopted += self._adopt(snapshot_id)
        return adopted

    def _adopt(self, snapshot_id: str) -> bool:
        file = self._blobs.get(f"{snapshot_id}{SUFFIX}")
        try:
            manifest, _ = unpack(file)
            if manifest.id != snapshot_id:
                raise UnfitError(f"its manifest is of {manifest.id!r}")
        except UnfitError as error:
            log.warning("snapshot_unreadable", snapshot=snapshot_id, reason=str(error))
            return False
        with available(), self._engine.begin() as connection:
            connection.execute(insert(SNAPSHOTS).values(**_row(manifest, len(file))))
        return True


def _readable(rows: Sequence[tuple[str, str, int]]) -> Iterator[tuple[Manifest, int]]:
    for snapshot_id, text, size in rows:
        try:
            yield parse_manifest(text), size
        except UnfitError as error:
            log.warning("snapshot_unreadable", snapshot=snapshot_id, reason=str(error))


def _check_id(snapshot_id: str) -> None:
    """Check that an id has the form of a snapshot id, before it goes to the database."""
    if not ID.fullmatch(snapshot_id):
        raise UnknownError(f"there is no snapshot {snapshot_id[:200]!r}")


def _blob(snapshot_id: str) -> str:
    return f"{PLACE}/{snapshot_id}{SUFFIX}"


def _row(manifest: Manifest, size: int) -> dict[str, object]:
    text = json.dumps(manifest.model_dump(), sort_keys=True)
    return {
        "id": manifest.id, "stream": manifest.stream, "created": manifest.created, "size": size, "manifest": text,
    }  # fmt: skip
