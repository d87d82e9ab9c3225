"""The table of streams by id, bounded in number: those in memory and those at rest in the store."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from service.errors import MovedOnError, SaturatedError, UnfitError, UnknownError
from service.models.hosted import HostedModel
from service.monitoring.late_labels import Feedback
from service.streams.good_states import GoodStates
from service.streams.idempotency import RetryLog
from service.streams.records import Record
from service.streams.stream import FEEDBACK_IMAGES, FEEDBACK_SECONDS, Stream
from service.streams.value import GOOD_BYTES, Config, first_value

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def valid_id(text: str) -> bool:
    """Return whether a text may name a stream or a snapshot.

    Example:
        >>> valid_id("camera-7"), valid_id("../etc/passwd")
        (True, False)
    """
    return ID.fullmatch(text) is not None


def check_id(text: str) -> None:
    """Check that a text may name a stream.

    Raises:
        UnfitError: If it does not match the pattern for ids.
    """
    if not valid_id(text):
        raise UnfitError(f"the stream id {text[:200]!r} is not of the form {ID.pattern}")


def check_generation(stream_id: str, generation: int, expected: int | None) -> None:
    """Check that a change was meant for the stream's current generation.

    Raises:
        MovedOnError: If a generation is expected and the stream is at another one.
    """
    if expected is not None and expected != generation:
        raise MovedOnError(f"stream {stream_id!r} is at generation {generation}, not {expected}")


def default_id(model: HostedModel) -> str:
    """Return the id of the stream that serves requests without a stream id."""
    return f"default.{model.name}"[:128]


class StreamTable:
    """All streams of the server by id, bounded in number: those in memory, and those at rest in the store."""

    def __init__(
        self,
        max_streams: int,
        retries: RetryLog,
        feedback: Callable[[], Feedback] | None = None,
        good: GoodStates | None = None,
    ) -> None:
        self._max_streams = max_streams
        self._retries = retries
        self._feedback = feedback or (lambda: Feedback(FEEDBACK_IMAGES, FEEDBACK_SECONDS))
        self._good = good or GoodStates(GOOD_BYTES)
        self._streams: dict[str, Stream] = {}
        self.resting: dict[str, Record] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def knows(self, stream_id: str) -> bool:
        """Return whether a stream of this id exists, in memory or at rest."""
        return stream_id in self._streams or stream_id in self.resting

    def __iter__(self) -> Iterator[Stream]:
        return iter(sorted(self._streams.copy().values(), key=lambda stream: stream.id))

    def find(self, stream_id: str) -> Stream | None:
        """Return a stream, or None."""
        return self._streams.get(stream_id)

    def get(self, stream_id: str) -> Stream:
        """Return a stream.

        Raises:
            UnknownError: If there is no stream of this id in memory.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            raise UnknownError(f"there is no stream {stream_id[:200]!r}")
        return stream

    def create(self, stream_id: str, config: Config) -> Stream:
        """Add a stream in its initial state.

        Raises:
            UnfitError: If the id does not match the pattern for ids.
            SaturatedError: If the table is full.
        """
        check_id(stream_id)
        count = len(self._streams.keys() | self.resting.keys())
        if count >= self._max_streams:
            raise SaturatedError(f"there are {count} streams, as many as allowed; delete one first")
        stream = self.new_stream(stream_id, config)
        self.put(stream)
        return stream

    def new_stream(self, stream_id: str, config: Config) -> Stream:
        """Return a stream in its initial state, without adding it to the table."""
        value = replace(first_value(config), retries=self._retries, good=self._good)
        return Stream(stream_id, value, feedback=self._feedback())

    def put(self, stream: Stream) -> None:
        """Hold a stream in memory."""
        self._streams[stream.id] = stream
        self.resting.pop(stream.id, None)

    def rest(self, record: Record) -> None:
        """Replace a stream in memory by its record in the store."""
        self.resting[record.id] = record
        self._streams.pop(record.id, None)

    def delete(self, stream_id: str) -> None:
        """Remove a stream from the table, with all it has learned."""
        self._streams.pop(stream_id, None)
        self.resting.pop(stream_id, None)
