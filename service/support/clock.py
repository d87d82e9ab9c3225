"""A wall clock that ignores jumps: it accepts a new time only after the system's clock has been stable for a while.

Use this clock for times that are stored or shown, and `time.monotonic` for durations within the process.
"""

import threading
import time
from collections.abc import Callable

from service.telemetry.logs import log

SMALL_SECONDS = 60.0
"""The largest jump that is accepted at once, such as a correction by NTP."""
STAND_SECONDS = 600.0
"""How long the wall clock must run evenly after a larger jump before its time is accepted."""
SURE_SECONDS = 3600.0
"""How long the clock must have run evenly before anything is deleted for its age."""


class Clock:
    """Runs evenly through jumps of the wall clock. Any thread may read it.

    Args:
        wall: Returns the wall clock's time in Unix seconds.
        steady: Returns the monotonic clock's time in seconds.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._lock = threading.Lock()
        self._offset = wall() - steady()
        self._jumped: tuple[float, float] | None = None
        self._even_since = steady()

    def now(self) -> float:
        """Return the time in Unix seconds."""
        with self._lock:
            return self._look() + self._offset

    def is_sure(self) -> bool:
        """Return whether the clock has run evenly for long enough to delete old data by it."""
        with self._lock:
            steady = self._look()
            return self._jumped is None and steady - self._even_since >= SURE_SECONDS

    def _look(self) -> float:
        """Compare the two clocks, update the offset between them, and return the monotonic time."""
        steady = self._steady()
        offset = self._wall() - steady
        if abs(offset - self._offset) <= SMALL_SECONDS:
            self._offset, self._jumped = offset, None
        elif self._jumped is None or abs(offset - self._jumped[0]) > SMALL_SECONDS:
            log.warning("clock_jumped", seconds=round(offset - self._offset), believed_in_seconds=STAND_SECONDS)
            self._jumped, self._even_since = (offset, steady), steady
        elif steady - self._jumped[1] >= STAND_SECONDS:
            self._offset, self._jumped, self._even_since = offset, None, steady
        return steady


CLOCK = Clock()
"""The clock of this process."""
