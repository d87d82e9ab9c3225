"""Atomic file writes: write to a temporary file, fsync it, then rename it into place."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

ASIDE = ".writing-"
PRIVATE = 0o600
"""Permissions of files that only their owner may read."""
AS_UMASK = 0o666
"""Permissions of files that the umask alone restricts."""


def write_whole(path: Path, content: bytes, mode: int, check: Callable[[bytes], object]) -> None:
    """Write a file atomically. It survives a power cut once this returns; a failed write leaves the old file untouched.

    Args:
        path: The file. An existing one is replaced.
        content: Its whole content.
        mode: Its permissions, before the umask is applied.
        check: Called with the content read back, before the rename. An exception from it cancels the write.

    Raises:
        OSError: If the file cannot be written. If only the folder's sync failed, the new file is complete.
    """
    temporary = path.with_name(f"{ASIDE}{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        check(temporary.read_bytes())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that the file names in it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_left(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while writing to a folder."""
    for temporary in folder.glob(f"{ASIDE}*"):
        temporary.unlink(missing_ok=True)
