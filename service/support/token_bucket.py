"""Token buckets: how often something may happen."""

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_BUCKETS = 10_000
"""Names remembered at a time; the one not seen for longest is forgotten, and begins with a full bucket."""


class Buckets:
    """Token buckets by name: each fills by `rate` a second, up to `burst_seconds` of it and one token at least."""

    def __init__(self, rate: float, burst_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate * burst_seconds)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        now = self._clock()
        tokens, since = self._buckets.pop(name, (self._size, now))
        tokens = min(self._size, tokens + (now - since) * self._rate)
        taken = tokens >= 1
        self._buckets[name] = (tokens - taken, now)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / self._rate

    def __len__(self) -> int:
        return len(self._buckets)
