"""A stream: an ordered sequence of batches with its own adapted state."""

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
from service.types import Durability, Mode

Unsettled: TypeAlias = Literal["", "write", "removal"]
GOOD_BYTES = 64 * 2**20
"""Default limit in bytes on one stream's good states in memory."""
FEEDBACK_IMAGES, FEEDBACK_SECONDS = 10_000, 7 * 86_400.0
"""Default limits on the answers of a stream that late labels are accepted for: their images and their age."""
KEPT_ON_FAILURE = frozenset({
    "id", "model", "created",  # never change
    "claim", "unsettled", "kept", "durable_generation",  # the store's side
    "waiting", "turn", "last_used", "sized",  # the queue's side, and a cache
    "before",  # the values to put back
    "feedback", "history", "trouble", "merging", "seconds",  # recorded after a request is answered
})  # fmt: skip
"""Fields of a stream that a failed request leaves alone. All other fields are put back to their earlier values."""
LEAST_LOOKS, LEAST_REQUESTS = 2, 20
"""Source checks, or requests, before a stream has enough evidence to be judged."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """All that a stream has learned and remembers: one immutable value, saved whole in a snapshot."""

    adapter: AdapterState
    window: Tensor
    monitors: MonitorState


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """The latest comparison with the source model: the share of equal labels, and its age in requests."""

    agreement: float
    age: int


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A state's results on the probe set.

    Attributes:
        accuracy: Share of right answers.
        forgetting: Accuracy of the state before any batch, minus this state's.
        source_gap: Accuracy of the source model, minus this state's.
        generation: The state's generation.
        steps: The state's learning steps.
        time: When it was measured, in Unix seconds.
        compared: The features of the stream's newest images against the source's; None if there were too few images.
    """

    accuracy: float
    forgetting: float
    source_gap: float
    generation: int
    steps: int
    time: float
    compared: Compared | None = None


Mark: TypeAlias = tuple[object, ...]
"""Identity of a checkpoint: equal marks mean equal state and settings."""


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
class Stream:
    """One stream. Its adapter state changes only through `commit`, on the worker, in the order of its requests."""

    id: str
    model: HostedModel
    fitted: Fitted
    state: StreamState
    retries: RetryLog
    mode: Mode = "adapt"
    adapt_batch_size: int = 1
    durability: Durability = "ephemeral"
    idempotent: bool = False
    """Refuse a request id that was used with another body."""
    claim: Claim | None = None
    unsettled: Unsettled = ""
    """Last operation on the stream's row whose outcome is unknown; "" if it is known."""
    kept: float = field(default_factory=time.monotonic)
    """When the last checkpoint was written, in seconds of the monotonic clock."""
    generation: int = 0
    durable_generation: int = 0
    policy: Policy = field(default_factory=Policy)
    good: GoodStates = field(default_factory=lambda: GoodStates(GOOD_BYTES))
    parent: str = ""
    beginnings: int = 0
    """How often the state was replaced by one that does not follow from it, as by a reset."""
    probe: ProbeResult | None = None
    feedback: Feedback = field(default_factory=lambda: Feedback(FEEDBACK_IMAGES, FEEDBACK_SECONDS))
    history: History = field(default_factory=History)
    trouble: Event | None = None
    suspicion: Suspicion = NONE
    """Why the stream may be worse than its source model, as of the last source check."""
    merging: Merging = field(default_factory=Merging)
    features: Tensor | None = None
    shadow: ShadowReport = field(default_factory=ShadowReport)
    sized: tuple[AdapterState | None, int] = (None, 0)
    created: float = field(default_factory=CLOCK.now)
    last_used: float = field(default_factory=CLOCK.now)
    used: float = field(default_factory=time.monotonic)
    """When the stream was last used, in seconds of the monotonic clock."""
    signals: Mapping[str, float] = field(default_factory=dict)
    monitored: Mapping[str, float] = field(default_factory=dict)
    source_check: SourceCheck | None = None
    seconds: float = 0.0
    """Seconds that the last request took on the worker."""
    requests: int = 0
    images: int = 0
    waiting: int = 0
    before: Mapping[str, Any] = field(default_factory=dict)
    """Earlier values of the fields that the running job may change; empty without a job."""

    @property
    def steps(self) -> int:
        """Learning steps taken. Unlike the generation, it falls when an older state is restored."""
        return int(self.state.adapter.steps)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's tensors, including those shared with the source model."""
        if self.sized[0] is not self.state.adapter:  # cached: each scrape of /metrics measures every stream
            self.sized = (self.state.adapter, size_bytes(self.state.adapter))
        return self.sized[1] + self.state.window.nbytes

    @property
    def explanation(self) -> str:
        """The pipeline that a selector has chosen, and the reason; "" for a pipeline without a selector."""
        return self.fitted.explain(self.state.adapter)

    @property
    def has_evidence(self) -> bool:
        """True once the stream was seen enough to be judged."""
        return int(self.state.monitors.suspicion.looks) >= LEAST_LOOKS or self.requests >= LEAST_REQUESTS

    @property
    def window_full(self) -> bool:
        """True if enough images wait for a step."""
        return len(self.state.window) >= max(self.adapt_batch_size, 1) > 1

    @property
    def mark(self) -> Mark:
        """The mark of a checkpoint taken now."""
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
        """Return the newest good state, or the initial one. It leaves the ring, so the next rollback goes further."""
        initial = self.fitted.initial()
        newest = next(iter(self.good.kept), None)
        self.good = self.good.without_newest()
        state = None if newest is None else newest.state(initial)
        return initial if state is None else state

    def commit(self, state: StreamState) -> None:
        """Replace the state: one assignment, one generation."""
        self.state = state
        self.generation += 1
        self.sized = (None, 0)

    @contextmanager
    def unchanged_on_failure(self) -> Iterator[None]:
        """Put all fields back if the block raises, so that a failed request has no effect."""
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
        """Record that the stream is being used now."""
        self.last_used, self.used = CLOCK.now(), time.monotonic()

    def before_job(self) -> "Stream":
        """Return a copy of the stream as it was before the running job; the stream itself if no job runs."""
        before = self.before
        if not before:
            return self
        copied = copy.copy(self)
        copied.before = {}
        for name, value in before.items():
            setattr(copied, name, value)
        return copied

    def note(self, state: StreamState) -> None:
        """Replace the state by one that differs only in window or monitors; the generation stays."""
        self.state = state

    def begin_again(self, state: StreamState) -> None:
        """Commit a state that does not follow from the last one (reset, restore, new spec), and forget retries."""
        self.commit(state)
        self.retries = self.retries.emptied()
        self.good = self.good.emptied()
        self.signals, self.monitored = {}, {}
        self.source_check = self.probe = self.features = None
        self.suspicion = NONE
        self.shadow = ShadowReport()
        self.beginnings += 1


PUT_BACK = tuple(each.name for each in fields(Stream) if each.name not in KEPT_ON_FAILURE)
"""All other fields. The list is derived, so a new field is put back unless it is excluded."""


def initial_state(model: HostedModel, fitted: Fitted) -> StreamState:
    """Return the state of a stream before any batch."""
    monitors = stream_monitors.init(len(model.bundle.classes), model.watch.initial)
    return StreamState(fitted.initial(), pending_images.empty(model.bundle.input), monitors)
