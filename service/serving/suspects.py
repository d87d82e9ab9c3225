"""Streams whose steps have ended the process: they first step alone, then are frozen, then are refused."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from service.errors import ConflictError
from service.serving.ticket import Ticket
from service.storage.step_journal import StepJournal
from service.streams.records import Record
from service.streams.stream import Stream
from service.streams.value import Counters
from service.types import Happening

HELD, REFUSED = 2, 3
"""Ends of the process after which a loaded stream is frozen, and after which its requests are refused."""
WAY_ON = "PATCH mode adapt to let it learn again, or reset it to start over"


class Suspects:
    """Knows the streams that are suspected of ending the process, and applies the consequences.

    A stream that runs when a process ends counts one, whatever ended the process. Its next good step clears the count.
    From `HELD` on, only a change of its mode, a reset or a restore does: the count is one again then.

    Args:
        journal: Marks running steps on disk; without one, nothing outlives the process.
    """

    def __init__(self, journal: StepJournal | None = None) -> None:
        self._journal = journal or StepJournal()

    def is_suspect(self, stream_id: str) -> bool:
        """Return whether a step of the stream may have ended a process. Such a stream must not share steps."""
        return self._journal.count(stream_id) > 0

    def check(self, stream_id: str) -> None:
        """Check that a stream is not refused for ending the process even when it is frozen.

        Raises:
            ConflictError: If it is refused.
        """
        count = self._journal.count(stream_id)
        if count >= REFUSED:
            said = f"its step ended the process {count} times"
            raise ConflictError(f"stream {stream_id!r} is not served: {said}; {WAY_ON}")

    def held(self, stream: Stream | Record) -> str:
        """Return the reason why a stream is held back, or will be once it is loaded; "" if it is not."""
        count = self._journal.count(stream.id)
        is_let_go = not isinstance(stream, Record) and stream.current.config.mode != "frozen"
        return "" if count < HELD or is_let_go else _reason(count)

    def hold(self, stream: Stream, *, again: bool) -> Happening | None:
        """Freeze a stream that was added to memory if its step ended the process twice; return the event to record.

        Args:
            stream: The stream.
            again: Return the event even if the stream is frozen already.
        """
        count = self._journal.count(stream.id)
        value = stream.current
        if count < HELD or (value.config.mode == "frozen" and not again):
            return None
        stream.current = replace(value, config=replace(value.config, mode="frozen"))
        return Happening("held", _reason(count), figures={"times": float(count)})

    def settle(self, stream: Stream) -> None:
        """Release a stream that was held back and is no longer frozen."""
        if self._journal.count(stream.id) >= HELD and stream.current.config.mode != "frozen":
            self._journal.set_count(stream.id, 1)

    @contextmanager
    def marked(self, *stream_ids: str) -> Iterator[None]:
        """Mark streams while the worker does work for them that is no step of theirs."""
        with self._journal.under_way(stream_ids):
            yield

    @contextmanager
    def running(self, tickets: Sequence[Ticket[Any]]) -> Iterator[None]:
        """Mark the streams of jobs while they run on the worker, and clear those that commit a good step."""
        suspects = [each for each in tickets if self.is_suspect(each.stream.id)]
        for each in suspects:
            self.settle(each.stream)
        before = [each.stream.current.counters for each in suspects]
        with self._journal.under_way([each.stream.id for each in tickets]):
            yield
        for each, counters in zip(suspects, before, strict=True):
            self._judge(each, counters)

    def _judge(self, ticket: Ticket[Any], before: Counters) -> None:
        stream, now = ticket.stream, ticket.stream.current.counters
        began_again = now.beginnings != before.beginnings
        if self._journal.count(stream.id) >= HELD:
            if began_again and ticket.shared is None:  # an operator's reset; a client can start a sequence at any time
                self._journal.set_count(stream.id, 1)
            return
        learned = now.generation != before.generation and not began_again
        answered = stream.current.config.mode == "frozen" and ticket.shared is not None and ticket.has_succeeded
        if learned or answered:
            self._journal.set_count(stream.id, 0)


def _reason(count: int) -> str:
    state = "its requests are refused" if count >= REFUSED else "it is frozen and does not learn"
    return f"its step ended the process {count} times: {state}; {WAY_ON}"
