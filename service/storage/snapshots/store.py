"""Snapshots in the store: a row of the catalogue for each, and a blob that verifies itself."""

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
    """Keeps snapshots by id; one is there wholly or not at all."""

    def __init__(self, engine: Engine, blobs: Blobs) -> None:
        self._engine = engine
        self._blobs = blobs

    def put(self, snapshot_id: str, file: bytes) -> None:
        """Keep a snapshot; when this returns it survives a power cut. One that is there already stays.

        Raises:
            StoreFullError: If the disk is full or the folder cannot be written.
            StoreDownError: If database or object store do not answer.
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
        """Read a snapshot's file.

        Raises:
            UnknownError: If there is none of this id.
        """
        self.manifest(snapshot_id)
        try:
            return self._blobs.get(f"{snapshot_id}{SUFFIX}")
        except KeyError:
            raise UnfitError(f"snapshot {snapshot_id!r} is in the catalogue, but its file is gone") from None

    def manifest(self, snapshot_id: str) -> tuple[Manifest, int]:
        """Read a snapshot's manifest, and its file's size in bytes.

        Raises:
            UnknownError: If there is none of this id.
        """
        _check_known(snapshot_id)
        query = select(SNAPSHOTS.c.manifest, SNAPSHOTS.c.size).where(SNAPSHOTS.c.id == snapshot_id)
        with available(), self._engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise UnknownError(f"there is no snapshot {snapshot_id[:200]!r}")
        return parse_manifest(row.manifest), int(row.size)

    def manifests(self, stream: str | None = None) -> Iterator[tuple[Manifest, int]]:
        """Read all manifests, or those of one stream, newest first; those of another version's form are left out."""
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
        _check_known(snapshot_id)
        with available(), self._engine.begin() as connection:
            if not connection.execute(delete(SNAPSHOTS).where(SNAPSHOTS.c.id == snapshot_id)).rowcount:
                raise UnknownError(f"there is no snapshot {snapshot_id[:200]!r}")
            garbage.note(connection, [_blob(snapshot_id)])
        self._blobs.delete(f"{snapshot_id}{SUFFIX}")
        with available(), self._engine.begin() as connection:
            garbage.take_back(connection, _blob(snapshot_id))  # it may be uploaded again

    def adopt(self) -> int:
        """Take in snapshots that lie among the blobs and are in no catalogue, as those of an older version do.

        What is damaged, or being written by another process, is left where it is.
        """
        with available(), self._engine.connect() as connection:
            known = set(connection.execute(select(SNAPSHOTS.c.id)).scalars())
            noted = set(connection.execute(select(GARBAGE.c.blob)).scalars())
        adopted = 0
        for name in list(self._blobs.names()):
            snapshot_id = name.removesuffix(SUFFIX)
            if ID.fullmatch(snapshot_id) and snapshot_id not in known and _blob(snapshot_id) not in noted:
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


def _check_known(snapshot_id: str) -> None:
    """Refuse an id that no snapshot can have, which a database might not even be asked for."""
    if not ID.fullmatch(snapshot_id):
        raise UnknownError(f"there is no snapshot {snapshot_id[:200]!r}")


def _blob(snapshot_id: str) -> str:
    return f"{PLACE}/{snapshot_id}{SUFFIX}"


def _row(manifest: Manifest, size: int) -> dict[str, object]:
    text = json.dumps(manifest.model_dump(), sort_keys=True)
    return {
        "id": manifest.id, "stream": manifest.stream, "created": manifest.created, "size": size, "manifest": text,
    }  # fmt: skip
