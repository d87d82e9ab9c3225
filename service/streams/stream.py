"""A stream: an ordered sequence of batches with its own adapted state."""

import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from service.models.hosted import HostedModel
from service.monitoring.alarm_merging import Merging
from service.monitoring.history import History
from service.monitoring.late_labels import Feedback
from service.streams.records import Event
from service.streams.value import Mark, StreamValue
from service.support.clock import CLOCK

Unsettled: TypeAlias = Literal["", "write", "removal"]
FEEDBACK_IMAGES, FEEDBACK_SECONDS = 10_000, 7 * 86_400.0
"""Default limits on the answers of a stream that late labels are accepted for: their images and their age."""


@dataclass(frozen=True, slots=True)
class Claim:
    """This process's ownership of a stream in the catalogue.

    Attributes:
        epoch: The claim's epoch; a later claim ends this one.
        generation, blob: The catalogue's values.
        reserved: Name prefix of the next blobs.
        mark: The last checkpoint's mark; () before the first one.
    """

    epoch: int
    generation: int
    blob: str
    reserved: str
    mark: Mark = ()


@dataclass(slots=True)
class Stored:
    """The store's side of a stream. The worker, the event loop and a store call each set single fields.

    Attributes:
        claim: This process's claim; None before the store has a row.
        unsettled: Last operation on the stream's row whose outcome is unknown; "" if it is known.
        durable_generation: The generation of the last checkpoint.
        kept: When that was written, in seconds of the monotonic clock.
    """

    claim: Claim | None = None
    unsettled: Unsettled = ""
    durable_generation: int = 0
    kept: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Stream:
    """One stream: its current value, and the records of the server about it.

    A job on the worker, in the stream's turn, computes a new value and commits it by one assignment to `current`. Until
    then, and if the job fails, all readers see the value before it.

    Attributes:
        id: The stream's id.
        current: The committed value.
        stored: The store's side.
        waiting: The requests in the queue.
        feedback, history, trouble, merging: Records of answered requests.
        seconds: Seconds that the last request took on the worker.
        created, last_used: Unix seconds.
        used: When the stream was last used, in seconds of the monotonic clock.
    """

    id: str
    current: StreamValue
    stored: Stored = field(default_factory=Stored)
    waiting: int = 0
    feedback: Feedback = field(default_factory=lambda: Feedback(FEEDBACK_IMAGES, FEEDBACK_SECONDS))
    history: History = field(default_factory=History)
    trouble: Event | None = None
    merging: Merging = field(default_factory=Merging)
    seconds: float = 0.0
    created: float = field(default_factory=CLOCK.now)
    last_used: float = field(default_factory=CLOCK.now)
    used: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> HostedModel:
        """The stream's model."""
        return self.current.config.model

    def promised_generation(self, value: StreamValue) -> int:
        """Return the durable generation once `value`, which a request has computed, is committed and answered."""
        return value.generation if value.config.durability == "sync" else self.stored.durable_generation

    def touch(self) -> None:
        """Record that the stream is being used now."""
        self.last_used, self.used = CLOCK.now(), time.monotonic()
