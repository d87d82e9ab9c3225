"""Files that are there wholly or not at all: written aside, fsynced, then renamed into place."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

ASIDE = ".writing-"
PRIVATE = 0o600
"""For files that only their owner may read."""
AS_UMASK = 0o666
"""For files that may be read by whom the umask says."""


def write_whole(path: Path, content: bytes, mode: int, check: Callable[[bytes], object]) -> None:
    """Write a file; when this returns it survives a power cut, and if it fails the old one is untouched.

    Args:
        path: The file, replaced if it is there.
        content: All of it.
        mode: Its permissions, less what the umask takes.
        check: Is given what was read back before the file gets its name; what it raises keeps the file out.

    Raises:
        OSError: If it cannot be written. Where only the folder could not be synced, the whole new file is there.
    """
    aside = path.with_name(f"{ASIDE}{secrets.token_hex(8)}")
    try:
        with open(aside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        check(aside.read_bytes())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_left(folder: Path) -> None:
    """Remove what a process that was killed while writing has left in a folder."""
    for left in folder.glob(f"{ASIDE}*"):
        left.unlink(missing_ok=True)
