"""Blobs: files that are there wholly or not at all, by name."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from service.errors import StoreFullError
from service.support.atomic_files import PRIVATE, remove_left, sync_folder, write_whole

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}


class Blobs(Protocol):
    """A place for blobs; names are the caller's, of letters, digits and `._-`."""

    def put(self, name: str, content: bytes, check: Callable[[bytes], object]) -> None:
        """Write a blob that `check` has read back; when this returns it is durable."""

    def get(self, name: str) -> bytes:
        """Return a blob; KeyError if there is none."""

    def delete(self, name: str) -> None:
        """Remove a blob, if it is there."""

    def names(self) -> Iterator[str]:
        """Yield all names."""


class FolderBlobs:
    """Blobs as files of one folder: written aside, fsynced, verified, then renamed into place."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_left(folder)
        self._folder = folder

    def put(self, name: str, content: bytes, check: Callable[[bytes], object]) -> None:
        """Write a blob.

        Raises:
            StoreFullError: If the disk is full or the folder cannot be written.
        """
        try:
            write_whole(self._folder / name, content, PRIVATE, check)
        except OSError as error:
            if error.errno in FULL:
                raise StoreFullError(f"nothing could be kept: {error.strerror}; the stream is as it was") from None
            raise

    def get(self, name: str) -> bytes:
        """Return a blob; KeyError if there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None

    def delete(self, name: str) -> None:
        """Remove a blob, if it is there."""
        try:
            (self._folder / name).unlink()
        except FileNotFoundError:
            return
        sync_folder(self._folder)

    def names(self) -> Iterator[str]:
        """Yield all names."""
        return (path.name for path in self._folder.iterdir())
