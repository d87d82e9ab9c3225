"""The last answers of ended streams, for clients that missed them and retry."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.streams.idempotency import Answered, RequestIdentity, RetryLog
from service.types import InferResponse

LAST = 4
"""Most answers kept for one stream."""
OWN_BYTES = 2048
"""Rough mean size of an answer apart from its arrays, in bytes."""


@dataclass(frozen=True, slots=True)
class _Ended:
    answers: RetryLog
    size_bytes: int
    until: float


class EndedAnswers:
    """Answers of ended streams by stream id, bounded in bytes and in time. Safe from any thread.

    Args:
        seconds: How long they are kept.
        size_bytes: Most bytes of all of them. Beyond it, those of the stream that ended first are dropped.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, seconds: float, size_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.limit_bytes = size_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._bytes = 0
        self._ended: OrderedDict[str, _Ended] = OrderedDict()

    def keep(self, stream_id: str, answers: Sequence[Answered]) -> None:
        """Keep the last answers of an ended stream, in place of those of an earlier stream of its id."""
        log = RetryLog(LAST, self.limit_bytes)
        for each in answers[-LAST:]:
            log = log.with_answer(each)
        size = sum(each.size_bytes + OWN_BYTES for each in log.kept)
        with self._lock:
            self._drop(stream_id)
            self._ended[stream_id] = _Ended(log, size, self._clock() + self.seconds)
            self._bytes += size
            self._make_room()

    def find(self, stream_id: str, identity: RequestIdentity) -> InferResponse | None:
        """Return an ended stream's answer to a request; None if it is not kept.

        Raises:
            ConflictError: If the request's idempotency key was used for another body.
        """
        with self._lock:
            self._make_room()
            ended = self._ended.get(stream_id)
        return None if ended is None else ended.answers.find(identity)

    def _make_room(self) -> None:
        """Drop expired answers, and the oldest ones beyond the byte limit."""
        while self._ended:
            oldest = next(iter(self._ended))
            if self._bytes <= self.limit_bytes and self._clock() < self._ended[oldest].until:
                break
            self._drop(oldest)

    def _drop(self, stream_id: str) -> None:
        ended = self._ended.pop(stream_id, None)
        if ended is not None:
            self._bytes -= ended.size_bytes
