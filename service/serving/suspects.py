"""Streams whose steps have ended the process: they step alone, then are held back, then refused."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from service.errors import ConflictError
from service.serving.ticket import Ticket
from service.storage.step_journal import StepJournal
from service.streams.records import Record
from service.streams.stream import Stream
from service.types import Happening

HELD, REFUSED = 2, 3
"""Ends of the process after which a stream is frozen when it comes into memory, and after which it is refused."""
WAY_ON = "PATCH mode adapt to let it learn again, or reset it to begin anew"


class Suspects:
    """Says which streams are suspected to end the process, and what follows from it.

    A stream under way when a process ends counts one, whoever ended the process. Its next good step clears that. From
    `HELD` on only a change of its mode, a reset or a restore does: it counts one again then.

    Args:
        journal: Where steps under way are marked; without one, nothing outlives the process.
    """

    def __init__(self, journal: StepJournal | None = None) -> None:
        self._journal = journal or StepJournal()

    def is_suspect(self, stream_id: str) -> bool:
        """Whether a step of the stream may have ended a process, so that it must not share a step with others."""
        return self._journal.count(stream_id) > 0

    def check(self, stream_id: str) -> None:
        """Refuse requests of a stream that ends the process even when it is frozen.

        Raises:
            ConflictError: If it is one.
        """
        count = self._journal.count(stream_id)
        if count >= REFUSED:
            said = f"its step ended the process {count} times"
            raise ConflictError(f"stream {stream_id!r} is not served: {said}; {WAY_ON}")

    def held(self, stream: Stream | Record) -> str:
        """Return why a stream is held back, or will be once it comes back from the store; "" if it is not."""
        count = self._journal.count(stream.id)
        is_let_go = not isinstance(stream, Record) and stream.mode != "frozen"
        return "" if count < HELD or is_let_go else _said(count)

    def hold(self, stream: Stream, *, again: bool) -> Happening | None:
        """Freeze a stream that comes into memory if its step ended the process twice; return what is to be told.

        Args:
            stream: The stream.
            again: Whether it is told of a stream that is frozen already.
        """
        count = self._journal.count(stream.id)
        if count < HELD or (stream.mode == "frozen" and not again):
            return None
        stream.mode = "frozen"
        return Happening("held", _said(count), figures={"times": float(count)})

    def settle(self, stream: Stream) -> None:
        """Let a stream go that was held back and is no longer frozen."""
        if self._journal.count(stream.id) >= HELD and stream.mode != "frozen":
            self._journal.set_count(stream.id, 1)

    @contextmanager
    def marked(self, *stream_ids: str) -> Iterator[None]:
        """Mark streams while work for them runs that is no step of theirs; on the worker."""
        with self._journal.under_way(stream_ids):
            yield

    @contextmanager
    def running(self, tickets: Sequence[Ticket[Any]]) -> Iterator[None]:
        """Mark the streams of jobs while they run, and clear those whose step has succeeded; on the worker."""
        suspects = [each for each in tickets if self.is_suspect(each.stream.id)]
        for each in suspects:
            self.settle(each.stream)
        before = [(each.stream.generation, each.stream.beginnings) for each in suspects]
        with self._journal.under_way([each.stream.id for each in tickets]):
            yield
        for each, (generation, beginnings) in zip(suspects, before, strict=True):
            self._judge(each, generation, beginnings)

    def _judge(self, ticket: Ticket[Any], generation: int, beginnings: int) -> None:
        stream = ticket.stream
        began_anew = stream.beginnings != beginnings
        if self._journal.count(stream.id) >= HELD:
            if began_anew and ticket.shared is None:  # an operator's reset; a client may begin a sequence anew at will
                self._journal.set_count(stream.id, 1)
            return
        learned = stream.generation != generation and not began_anew
        answered = stream.mode == "frozen" and ticket.shared is not None and ticket.has_succeeded
        if learned or answered:
            self._journal.set_count(stream.id, 0)


def _said(count: int) -> str:
    state = "its requests are refused" if count >= REFUSED else "it is frozen and does not learn"
    return f"its step ended the process {count} times: {state}; {WAY_ON}"
