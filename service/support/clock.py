"""The time of day, as far as it can be trusted: a clock that jumps is not believed until it has stood for a while.

Durations within the process are measured by `time.monotonic`; this clock is for times that are stored and shown.
"""

import threading
import time
from collections.abc import Callable

from service.telemetry.logs import log

SMALL_SECONDS = 60.0
"""A jump that is believed at once, as when a clock is set right."""
STAND_SECONDS = 600.0
"""How long the clock must go on evenly after a greater jump before its time is taken over."""
SURE_SECONDS = 3600.0
"""How long the clock must have gone on evenly before anything is removed for its age."""


class Clock:
    """Goes on evenly through jumps of the wall clock; may be read from any thread.

    Args:
        wall: The wall clock, Unix seconds.
        steady: The monotonic clock.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._lock = threading.Lock()
        self._offset = wall() - steady()
        self._jumped: tuple[float, float] | None = None
        self._even_since = steady()

    def now(self) -> float:
        """Return the time, Unix seconds."""
        with self._lock:
            return self._look() + self._offset

    def is_sure(self) -> bool:
        """Whether the clock has gone on evenly for long enough to remove what is old by it."""
        with self._lock:
            steady = self._look()
            return self._jumped is None and steady - self._even_since >= SURE_SECONDS

    def _look(self) -> float:
        """Compare the two clocks; return the steady one's time."""
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
"""The process's own."""
