"""Blobs: named files that are written whole or not at all."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from service.errors import StoreFullError
from service.support.atomic_files import PRIVATE, remove_left, sync_folder, write_whole

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}


class Blobs(Protocol):
    """A store of blobs. Names are chosen by the caller, from letters, digits and `._-`."""

    def put(self, name: str, content: bytes, check: Callable[[bytes], object]) -> None:
        """Write a blob durably, and call `check` with the content read back."""

    def get(self, name: str) -> bytes:
        """Return a blob; KeyError if there is none."""

    def delete(self, name: str) -> None:
        """Remove a blob if it exists."""

    def names(self) -> Iterator[str]:
        """Yield all names."""


class FolderBlobs:
    """Blobs as files in one folder: written to a temporary file, fsynced, verified, then renamed."""

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
        """Remove a blob if it exists."""
        try:
            (self._folder / name).unlink()
        except FileNotFoundError:
            return
        sync_folder(self._folder)

    def names(self) -> Iterator[str]:
        """Yield all names."""
        return (path.name for path in self._folder.iterdir())
