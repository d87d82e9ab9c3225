"""A stream's value: all that a request or an operator may change, as one immutable value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from torch import Tensor

from adapters import AdapterState
from adapters.state import size_bytes
from service.models.hosted import Fitted, HostedModel
from service.monitoring import stream_monitors
from service.monitoring.feature_shift import Compared
from service.monitoring.guard import Policy
from service.monitoring.monitor_state import MonitorState
from service.monitoring.shadow import ShadowReport
from service.monitoring.suspicion import NONE, Suspicion
from service.streams import pending_images
from service.streams.good_states import GoodStates
from service.streams.idempotency import RetryLog
from service.types import Durability, Mode

GOOD_BYTES = 64 * 2**20
"""Default limit in bytes on one stream's good states in memory."""
LEAST_LOOKS, LEAST_REQUESTS = 2, 20
"""Source checks, or requests, before a stream has enough evidence to be judged."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of a stream.

    Attributes:
        model: The stream's model. It never changes.
        fitted: The pipeline, fitted to the model.
        mode: The stream adapts, is frozen, or learns in the shadow of the source model.
        policy: The guard's policy.
        adapt_batch_size: Images of a learning step; a smaller request waits in the window.
        durability: When the stream is written to the store.
        idempotent: Refuse a request id that was used with another body.
    """

    model: HostedModel
    fitted: Fitted
    mode: Mode = "adapt"
    policy: Policy = field(default_factory=Policy)
    adapt_batch_size: int = 1
    durability: Durability = "ephemeral"
    idempotent: bool = False

    def initial(self) -> "StreamState":
        """Return the state before any batch, which a reset returns to."""
        monitors = stream_monitors.init(len(self.model.bundle.classes), self.model.watch.initial)
        return StreamState(self.fitted.initial(), pending_images.empty(self.model.bundle.input), monitors)


@dataclass(frozen=True, eq=False)
class StreamState:
    """All that a stream has learned and remembers: one immutable value, saved whole in a snapshot."""

    adapter: AdapterState
    window: Tensor
    monitors: MonitorState

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of the learned tensors and the window, including those shared with the source model."""
        return size_bytes(self.adapter) + self.window.nbytes  # cached: each scrape of /metrics measures every stream


@dataclass(frozen=True, slots=True)
class Counters:
    """Counts over the stream's life.

    Attributes:
        generation: Number of committed states.
        requests: Answered requests.
        images: Answered images.
        beginnings: How often the state was replaced by one that does not follow from it, as by a reset.
    """

    generation: int = 0
    requests: int = 0
    images: int = 0
    beginnings: int = 0

    def after_request(self, images: int) -> "Counters":
        """Return the counts after one more answered request."""
        return replace(self, requests=self.requests + 1, images=self.images + images)


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


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """The latest measurements of the state. A state that does not follow from it starts with none.

    Attributes:
        signals: The last answer's signals.
        monitored: The monitors' signals at the last request.
        source_check: The last comparison with the source model.
        probe: The last results on the probe set.
        suspicion: Why the stream may be worse than its source model, as of the last source check.
        features: (n, d) features of the newest images.
        shadow: How the answers would have differed, if the stream is in shadow mode.
    """

    signals: Mapping[str, float] = field(default_factory=dict)
    monitored: Mapping[str, float] = field(default_factory=dict)
    source_check: SourceCheck | None = None
    probe: ProbeResult | None = None
    suspicion: Suspicion = NONE
    features: Tensor | None = None
    shadow: ShadowReport = field(default_factory=ShadowReport)


Mark: TypeAlias = tuple[object, ...]
"""Identity of a checkpoint: equal marks mean equal state and settings."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamValue:
    """All that a request or an operator may change. Each change makes a new value; none is ever changed in place.

    Attributes:
        config: The settings.
        state: The learned state.
        retries: The latest answers, for retries.
        good: The states that a guard may return to.
        counters: Counts over the stream's life.
        readings: The latest measurements of the state.
        parent: Id of the snapshot that was taken or restored last; "" if there was none.
    """

    config: Config
    state: StreamState
    retries: RetryLog = field(default_factory=lambda: RetryLog(0, 0))
    good: GoodStates = field(default_factory=lambda: GoodStates(GOOD_BYTES))
    counters: Counters = field(default_factory=Counters)
    readings: Readings = field(default_factory=Readings)
    parent: str = ""

    @property
    def generation(self) -> int:
        """Number of committed states."""
        return self.counters.generation

    @property
    def steps(self) -> int:
        """Learning steps taken. Unlike the generation, it falls when an older state is restored."""
        return int(self.state.adapter.steps)

    @property
    def explanation(self) -> str:
        """The pipeline that a selector has chosen, and the reason; "" for a pipeline without a selector."""
        return self.config.fitted.explain(self.state.adapter)

    @property
    def has_evidence(self) -> bool:
        """True once the stream was seen enough to be judged."""
        return int(self.state.monitors.suspicion.looks) >= LEAST_LOOKS or self.counters.requests >= LEAST_REQUESTS

    @property
    def window_full(self) -> bool:
        """True if enough images wait for a step."""
        return len(self.state.window) >= max(self.config.adapt_batch_size, 1) > 1

    @property
    def mark(self) -> Mark:
        """The mark of a checkpoint of this value."""
        return (self.generation, len(self.state.window), self.config)

    def with_state(self, state: StreamState) -> "StreamValue":
        """Return the value with a state that differs only in window or monitors; the generation stays."""
        return replace(self, state=state)

    def with_next(self, state: StreamState) -> "StreamValue":
        """Return the value with its next state, one generation later."""
        return replace(self, state=state, counters=replace(self.counters, generation=self.generation + 1))

    def with_new_beginning(self, state: StreamState) -> "StreamValue":
        """Return the value with a state that does not follow from the last one, without its answers and readings."""
        value = self.with_next(state)
        counters = replace(value.counters, beginnings=value.counters.beginnings + 1)
        retries, good = self.retries.emptied(), self.good.emptied()
        return replace(value, counters=counters, retries=retries, good=good, readings=Readings())


def first_value(config: Config) -> StreamValue:
    """Return the value of a stream before any request, which keeps no answers for retries."""
    return StreamValue(config, config.initial())
