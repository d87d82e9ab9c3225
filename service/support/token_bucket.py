"""Token buckets for rate limits."""

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_BUCKETS = 10_000
"""Most buckets kept. The least recently used one is dropped; its name would start with a full bucket again."""


class Buckets:
    """Token buckets by name. Each gains `rate` tokens a second and holds max(1, rate * burst_seconds) tokens."""

    def __init__(self, rate: float, burst_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate * burst_seconds)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token and return 0; without a token, return the seconds until there is one."""
        now = self._clock()
        tokens, since = self._buckets.pop(name, (self._size, now))
        tokens = min(self._size, tokens + (now - since) * self._rate)
        available = tokens >= 1
        self._buckets[name] = (tokens - available, now)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if available else (1 - tokens) / self._rate

    def __len__(self) -> int:
        return len(self._buckets)
