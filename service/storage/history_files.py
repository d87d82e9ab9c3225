"""Streams' histories on disk: one file each, written when a stream rests, every few minutes, and at the stop."""

import hashlib
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from service.errors import ServiceError
from service.monitoring.history import History
from service.monitoring.history_tiers import TIERS
from service.streams.stream import Stream
from service.telemetry.logs import log

KEPT_SECONDS = 300.0
"""Seconds between writes of a changed history, which a crash may lose."""
HEAD = struct.Struct("<d")


class Histories:
    """Writes and reads histories. Losing one stops nothing, so faults are only logged.

    Args:
        folder: Holds the files; created with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, streams: Iterable[Stream]) -> None:
        """Write the histories that have changed since they were last written."""
        for stream in streams:
            history = stream.history
            if history.saved == history.cursor:
                continue
            try:
                self._write(stream.id, HEAD.pack(stream.created) + history.packed())
                history.saved, history.saved_at = history.cursor, time.monotonic()
            except OSError as error:
                log.warning("history_not_kept", stream=stream.id, reason=str(error))

    def keep_up(self, streams: Iterable[Stream]) -> None:
        """Write the changed histories that were not written for a while."""
        before = time.monotonic() - KEPT_SECONDS
        self.save([stream for stream in streams if stream.history.saved_at < before])

    def load(self, stream: Stream) -> None:
        """Load a stream's stored history. A history of an earlier stream of the same id is ignored."""
        try:
            content = self._path(stream.id).read_bytes()
            (created,) = HEAD.unpack_from(content)
            if abs(created - stream.created) < 1:
                history = History()
                history.unpack(content[HEAD.size :])
                history.saved = history.cursor
                stream.history = history
        except FileNotFoundError:
            return
        except (OSError, ValueError, struct.error, ServiceError) as error:
            log.warning("history_not_read", stream=stream.id, reason=str(error))

    def forget_old(self) -> None:
        """Remove files that were not written for longer than a history reaches back."""
        if not self._folder.is_dir():
            return
        oldest = time.time() - TIERS[-1].span
        for path in self._folder.iterdir():
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except OSError as error:
                log.warning("history_not_removed", file=path.name, reason=str(error))

    def _path(self, stream_id: str) -> Path:
        return self._folder / hashlib.sha256(stream_id.encode()).hexdigest()[:40]

    def _write(self, stream_id: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(stream_id)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(content)
        os.replace(temporary, path)
