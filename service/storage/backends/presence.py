"""Detects that a file of the running server was removed or replaced."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Presence:
    """Files and folders as they were when the server opened them, by device and inode.

    An unlinked SQLite file still accepts writes, but they are lost when the process ends.
    """

    seen: Mapping[Path, tuple[int, int] | None]

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Presence":
        """Record the paths as they are now."""
        return cls({path: _identity(path) for path in paths})

    def lost(self) -> str:
        """Say which path is gone or was replaced; "" if none was."""
        for path, before in self.seen.items():
            now = _identity(path)
            if now != before:
                return f"{path} {'is gone' if now is None else 'was replaced by another'}"
        return ""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
