"""Where a server under test keeps what must last: SQLite and a folder, or PostgreSQL and S3."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import ObjectStore


@dataclass(frozen=True)
class Store:
    """A store: the settings that name it, and its blobs as the tests reach them beside the server."""

    name: str
    data: Path
    environment: Mapping[str, str]
    blobs: ObjectStore

    def paths(self) -> list[str]:
        """Return the paths of all blobs."""
        return sorted(entry["path"] for page in obstore.list(self.blobs) for entry in page)

    def path_of(self, content: bytes) -> str:
        """Return the path of the blob that holds a content; however the server names its blobs."""
        found = [path for path in self.paths() if self.read(path) == content]
        assert len(found) == 1, f"{len(found)} blobs hold these {len(content)} bytes, among {self.paths()}"
        return found[0]

    def read(self, path: str) -> bytes:
        """Return a blob's content."""
        return bytes(obstore.get(self.blobs, path).bytes())

    def write(self, path: str, content: bytes) -> None:
        """Put a content in a blob's place."""
        obstore.put(self.blobs, path, content)

    def remove(self, path: str) -> None:
        """Remove a blob."""
        obstore.delete(self.blobs, path)
