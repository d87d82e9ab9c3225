"""Snapshot files in a folder: written aside, fsynced, verified, then renamed into place."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from service.errors import StoreFullError, UnfitError, UnknownError
from service.files import PRIVATE, remove_left, sync_folder, write_whole
from service.snapshots.format import Manifest, header_length, read_manifest, unpack
from service.telemetry import log

SUFFIX = ".safetensors"
ID = re.compile(r"[0-9a-f]{24}")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class SnapshotFolder:
    """Keeps each snapshot in one file named by its id; a file is there wholly or not at all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_left(folder)
        self._folder = folder

    def put(self, snapshot_id: str, file: bytes) -> None:
        """Write a snapshot; when this returns it survives a power cut.

        Raises:
            StoreFullError: If the disk is full or the folder cannot be written.
        """
        try:
            write_whole(self._folder / f"{snapshot_id}{SUFFIX}", file, PRIVATE, unpack)
        except OSError as error:
            if error.errno in FULL:
                raise StoreFullError(
                    f"the snapshot could not be kept: {error.strerror}; the stream is as it was"
                ) from None
            raise

    def get(self, snapshot_id: str) -> bytes:
        """Read a snapshot's file.

        Raises:
            UnknownError: If there is none of this id.
        """
        try:
            return self._path(snapshot_id).read_bytes()
        except FileNotFoundError:
            raise UnknownError(f"there is no snapshot {snapshot_id!r}") from None

    def manifest(self, snapshot_id: str) -> tuple[Manifest, int]:
        """Read a snapshot's manifest, and its file's size in bytes.

        Raises:
            UnknownError: If there is none of this id.
        """
        path = self._path(snapshot_id)
        try:
            with path.open("rb") as file:
                head = file.read(8)
                return read_manifest(head + file.read(header_length(head))), path.stat().st_size
        except FileNotFoundError:
            raise UnknownError(f"there is no snapshot {snapshot_id!r}") from None

    def manifests(self) -> Iterator[tuple[Manifest, int]]:
        """Read all manifests, newest first; a damaged file is logged and left where it is."""
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            if ID.fullmatch(path.stem):
                try:
                    found.append(self.manifest(path.stem))
                except (UnfitError, UnknownError) as error:
                    log.warning("snapshot_unreadable", snapshot=path.stem, reason=str(error))
        yield from sorted(found, key=lambda entry: (entry[0].created, entry[0].id), reverse=True)

    def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot.

        Raises:
            UnknownError: If there is none of this id.
        """
        try:
            self._path(snapshot_id).unlink()
        except FileNotFoundError:
            raise UnknownError(f"there is no snapshot {snapshot_id!r}") from None
        sync_folder(self._folder)

    def _path(self, snapshot_id: str) -> Path:
        if not ID.fullmatch(snapshot_id):
            raise UnknownError(f"there is no snapshot {snapshot_id[:200]!r}")
        return self._folder / f"{snapshot_id}{SUFFIX}"
