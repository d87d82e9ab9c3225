"""A stream: an ordered sequence of batches with its own adapted state."""

import asyncio
import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from torch import Tensor

from adapters import AdapterState
from adapters.state import size_bytes
from service.models.hosted import Fitted, HostedModel
from service.monitoring import stream_monitors
from service.monitoring.alarm_merging import Merging
from service.monitoring.feature_shift import Compared
from service.monitoring.guard import Policy
from service.monitoring.history import History
from service.monitoring.late_labels import Feedback
from service.monitoring.monitor_state import MonitorState
from service.monitoring.shadow import ShadowReport
from service.monitoring.suspicion import NONE, Suspicion
from service.streams import pending_images
from service.streams.good_states import GoodStates
from service.streams.idempotency import RetryLog
from service.streams.records import Event
from service.support.clock import CLOCK

Mode: TypeAlias = Literal["adapt", "frozen", "shadow"]
Durability: TypeAlias = Literal["ephemeral", "periodic", "sync"]
Unsettled: TypeAlias = Literal["", "write", "removal"]
GOOD_BYTES = 64 * 2**20
"""Most bytes in memory of the good states that one stream keeps to go back to, where no setting says otherwise."""
FEEDBACK_IMAGES, FEEDBACK_SECONDS = 10_000, 7 * 86_400.0
"""Answers of a stream that late labels are taken for, where no setting says otherwise."""
KEPT_ON_FAILURE = frozenset({
    "id", "model", "created",  # never change
    "claim", "unsettled", "kept", "durable_generation",  # what is known of the store
    "waiting", "turn", "last_used", "sized",  # the queue's, and a cache
    "before",  # what is put back
    "feedback", "history", "trouble", "merging", "seconds",  # written down once a request is answered
})  # fmt: skip
"""The fields of a stream that a request which fails leaves alone; all others are put back as they were."""
LEAST_LOOKS, LEAST_REQUESTS = 2, 20
"""Looks by the source model, or requests, before a stream counts as known."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """All that a stream has learned and remembers: one immutable value, and what a snapshot holds."""

    adapter: AdapterState
    window: Tensor
    monitors: MonitorState


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """When the stream was last compared with the source model, in requests ago, and the share of equal labels."""

    agreement: float
    age: int


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How a state answers the probe set.

    Attributes:
        accuracy: Share of right answers.
        forgetting: Accuracy of the state before any batch, less that.
        source_gap: Accuracy of the source model, less that.
        generation: Of the state.
        steps: Learning steps of the state.
        time: When, Unix seconds.
        compared: The features of the stream's newest images beside the source's; None where there were too few.
    """

    accuracy: float
    forgetting: float
    source_gap: float
    generation: int
    steps: int
    time: float
    compared: Compared | None = None


Mark: TypeAlias = tuple[object, ...]
"""What a checkpoint is of: two equal ones are of the same state and settings."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That a stream is this process's own in the catalogue.

    Attributes:
        epoch: Of the claim; a later one ends it.
        generation, blob: What the catalogue holds.
        reserved: How the names of the next blobs begin.
        mark: Of what was kept last; () for nothing yet.
    """

    epoch: int
    generation: int
    blob: str
    reserved: str
    mark: Mark = ()


@dataclass(slots=True)
class Stream:
    """One stream. What it has learned changes by `commit` alone, on the worker, in the stream's order."""

    id: str
    model: HostedModel
    fitted: Fitted
    state: StreamState
    retries: RetryLog
    mode: Mode = "adapt"
    adapt_batch_size: int = 1
    durability: Durability = "ephemeral"
    idempotent: bool = False
    """Whether a request id is refused with another body."""
    claim: Claim | None = None
    unsettled: Unsettled = ""
    """What was last tried on the stream's row, while it is not known whether it took effect; "" if it is known."""
    kept: float = field(default_factory=time.monotonic)
    """When the last checkpoint was written, on the monotonic clock."""
    generation: int = 0
    durable_generation: int = 0
    policy: Policy = field(default_factory=Policy)
    good: GoodStates = field(default_factory=lambda: GoodStates(GOOD_BYTES))
    parent: str = ""
    beginnings: int = 0
    """How often the state was replaced by one that does not follow from it."""
    probe: ProbeResult | None = None
    feedback: Feedback = field(default_factory=lambda: Feedback(FEEDBACK_IMAGES, FEEDBACK_SECONDS))
    history: History = field(default_factory=History)
    trouble: Event | None = None
    suspicion: Suspicion = NONE
    """Why the stream may be worse than its source model, as of the last look."""
    merging: Merging = field(default_factory=Merging)
    features: Tensor | None = None
    shadow: ShadowReport = field(default_factory=ShadowReport)
    sized: tuple[AdapterState | None, int] = (None, 0)
    created: float = field(default_factory=CLOCK.now)
    last_used: float = field(default_factory=CLOCK.now)
    used: float = field(default_factory=time.monotonic)
    """When it was used last, on the monotonic clock."""
    signals: Mapping[str, float] = field(default_factory=dict)
    monitored: Mapping[str, float] = field(default_factory=dict)
    source_check: SourceCheck | None = None
    seconds: float = 0.0
    """What the last request took on the worker."""
    requests: int = 0
    images: int = 0
    waiting: int = 0
    before: Mapping[str, Any] = field(default_factory=dict)
    """What the job that is under way may change, as it was before."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def steps(self) -> int:
        """Learning steps taken; goes back on restore, unlike the generation."""
        return int(self.state.adapter.steps)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's tensors, those shared with the source model included."""
        if self.sized[0] is not self.state.adapter:  # ten thousand streams are measured at each scrape
            self.sized = (self.state.adapter, size_bytes(self.state.adapter))
        return self.sized[1] + self.state.window.nbytes

    @property
    def explanation(self) -> str:
        """Which pipeline a selector has chosen, and why; "" where nothing is chosen."""
        return self.fitted.explain(self.state.adapter)

    @property
    def has_evidence(self) -> bool:
        """Whether enough was seen of the stream to say how it is."""
        return int(self.state.monitors.suspicion.looks) >= LEAST_LOOKS or self.requests >= LEAST_REQUESTS

    @property
    def window_full(self) -> bool:
        """Whether the images that wait are enough for a step."""
        return len(self.state.window) >= max(self.adapt_batch_size, 1) > 1

    @property
    def mark(self) -> Mark:
        """What a checkpoint would be of."""
        learned = (self.generation, len(self.state.window), self.fitted.spec, dict(self.fitted.options))
        return (*learned, self.mode, self.policy, self.adapt_batch_size, self.durability, self.idempotent)

    @property
    def promised_generation(self) -> int:
        """The durable generation once the request under way is answered."""
        return self.generation if self.durability == "sync" else self.durable_generation

    def initial(self) -> StreamState:
        """Return the state that a reset goes back to."""
        return initial_state(self.model, self.fitted)

    def last_good(self) -> AdapterState:
        """Return the newest good state, or the one before any batch; the next way back leads further."""
        initial = self.fitted.initial()
        newest = next(iter(self.good.kept), None)
        self.good = self.good.without_newest()
        state = None if newest is None else newest.state(initial)
        return initial if state is None else state

    def commit(self, state: StreamState) -> None:
        """Put a new state in place: one assignment, one generation."""
        self.state = state
        self.generation += 1
        self.sized = (None, 0)

    @contextmanager
    def unchanged_on_failure(self) -> Iterator[None]:
        """Put everything back if the block raises: a request either happens or does not."""
        self.before = before = {name: getattr(self, name) for name in PUT_BACK}
        try:
            yield
        except BaseException:
            for name, value in before.items():
                setattr(self, name, value)
            raise
        finally:
            self.before = {}

    def touch(self) -> None:
        """Note that the stream is used now."""
        self.last_used, self.used = CLOCK.now(), time.monotonic()

    def before_job(self) -> "Stream":
        """Return the stream as it was before the job that is under way; itself where there is none."""
        before = self.before
        if not before:
            return self
        copied = copy.copy(self)
        copied.before = {}
        for name, value in before.items():
            setattr(copied, name, value)
        return copied

    def note(self, state: StreamState) -> None:
        """Put a new state in place that differs in window or monitors alone: no learning, so the generation stays."""
        self.state = state

    def begin_again(self, state: StreamState) -> None:
        """Commit a state that does not follow from the last one (reset, restore, new spec); retries are forgotten."""
        self.commit(state)
        self.retries = self.retries.emptied()
        self.good = self.good.emptied()
        self.signals, self.monitored = {}, {}
        self.source_check = self.probe = self.features = None
        self.suspicion = NONE
        self.shadow = ShadowReport()
        self.beginnings += 1


PUT_BACK = tuple(each.name for each in fields(Stream) if each.name not in KEPT_ON_FAILURE)
"""Every other field, so that a new one cannot be forgotten."""


def initial_state(model: HostedModel, fitted: Fitted) -> StreamState:
    """Return the state of a stream before any batch."""
    monitors = stream_monitors.init(len(model.bundle.classes), model.watch.initial)
    return StreamState(fitted.initial(), pending_images.empty(model.bundle.input), monitors)
