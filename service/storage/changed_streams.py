"""The streams that have changed since their last checkpoint, shared by the event loop and the worker."""

import threading
import time

from service.streams.stream import Stream


class Changes:
    """Holds the changed streams by id. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}
        self._urgent: set[str] = set()
        self._later: dict[str, float] = {}

    def __setitem__(self, stream_id: str, stream: Stream) -> None:
        with self._lock:
            self._streams[stream_id] = stream

    def values(self) -> list[Stream]:
        """Return the streams as a new list."""
        with self._lock:
            return list(self._streams.values())

    def drop(self, stream_id: str) -> None:
        """Remove a stream that was written or has ended."""
        with self._lock:
            self._streams.pop(stream_id, None)
            self._urgent.discard(stream_id)
            self._later.pop(stream_id, None)

    def mark_urgent(self, stream_id: str) -> None:
        """Mark a stream to be written at the next scan."""
        with self._lock:
            self._urgent.add(stream_id)

    def clear_urgent(self, stream_id: str) -> None:
        """Remove that mark."""
        with self._lock:
            self._urgent.discard(stream_id)

    def is_urgent(self, stream_id: str) -> bool:
        """Return whether a stream is marked to be written at the next scan."""
        with self._lock:
            return stream_id in self._urgent

    def delay(self, stream_id: str, seconds: float) -> None:
        """Postpone the next write of a stream whose last one failed."""
        with self._lock:
            self._later[stream_id] = time.monotonic() + seconds

    def is_delayed(self, stream_id: str) -> bool:
        """Return whether a stream's next write is postponed."""
        with self._lock:
            return time.monotonic() < self._later.get(stream_id, 0.0)
