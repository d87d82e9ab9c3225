"""What the control plane takes and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, model_validator

from service.models.bundle import NAME
from service.monitoring.guard import Policy
from service.types import LARGEST_BATCH, MAX_NOTE

Mode = Literal["adapt", "frozen", "shadow"]
Durability = Literal["ephemeral", "periodic", "sync"]
Name = Annotated[str, Field(pattern=NAME)]
MAX_SPEC = 256
MAX_ENTRIES = 64


def check_few(value: Any) -> Any:
    """Refuse an object of very many entries as a whole: each of them would be an error of its own."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries were given, at most {MAX_ENTRIES} are expected")
    return value


Few = BeforeValidator(check_few)
PartOptions = Annotated[dict[str, str | int | float | bool | None], Few]
Options = Annotated[dict[str, PartOptions | StrictInt], Few]
Guard = Annotated[Policy, Few]


class Wire(BaseModel):
    """A body of the control plane; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Given(Wire):
    """A body that a client sends."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return check_few(value)


class StreamCreate(Given):
    """A stream to create; what is left out is the model's default."""

    id: Name | None = None
    """Its name; the server makes one if there is none."""
    model: str | None = Field(default=None, max_length=128)
    """Which model; required where several are served."""
    adapter: str | None = Field(default=None, min_length=1, max_length=MAX_SPEC)
    """The spec, as `unmix_tns+eta+lame`."""
    options: Options = {}
    """Options by part name, `seed`, and `precision` (float32, or bfloat16 where the processor computes in it):
    {"tent": {"lr": 1e-4}, "seed": 7}."""
    guard: Guard = Policy()
    """What its guard does about what its monitors find."""
    mode: Mode = "adapt"
    """adapt: learn from every batch. frozen: answer by the state as it is. shadow: answer as the source, learn
    beside."""
    durability: Durability | None = None
    """ephemeral: in memory alone. periodic: kept every few steps or seconds. sync: kept before each answer."""
    adapt_batch_size: int = Field(default=1, ge=1, le=LARGEST_BATCH)
    """Images of one adaptation step; requests with fewer are answered at once and wait in the window."""
    idempotent: bool = False
    """Whether a request id that comes with another body is refused (409). Else it is a new request."""


class StreamPatch(Given):
    """What to change of a stream; a new adapter starts from its initial state, all else keeps what was learned."""

    mode: Mode | None = None
    adapter: str | None = Field(default=None, min_length=1, max_length=MAX_SPEC)
    options: Options | None = None
    guard: Guard | None = None
    adapt_batch_size: int | None = Field(default=None, ge=1, le=LARGEST_BATCH)
    durability: Durability | None = None
    idempotent: bool | None = None


class ShadowView(Wire):
    """What adapting would have changed while a stream answered as the source model."""

    images: int
    changed: float
    """Share of the images that the adapted model answers otherwise."""
    entropy: float
    source_entropy: float
    accuracy: float | None
    """Of the adapted answers, by late labels."""
    source_accuracy: float | None
    moves: list[dict[str, str | int]]
    """The commonest changes: `source` and `adapted` class, and `images`."""


class StreamView(Wire):
    """A stream as it is."""

    id: str
    model: str
    adapter: str
    options: dict[str, Any]
    mode: Mode
    guard: Policy
    adapt_batch_size: int
    durability: Durability
    idempotent: bool = False
    """Whether a request id that comes with another body is refused."""
    resident: bool
    """Whether it is in memory; else it rests in the store, and comes back when it is asked for."""
    generation: int
    durable_generation: int
    steps: int
    waiting_images: int
    state_bytes: int
    created: float
    last_used: float
    signals: dict[str, float]
    choice: str
    shadow: ShadowView | None
    """What adapting would have changed; of streams that were in shadow mode."""


class StreamList(Wire):
    """A page of streams; `next` is the `after` of the next page."""

    items: list[StreamView]
    next: str | None


class SnapshotCreate(Given):
    """A snapshot to take."""

    name: Name | None = None
    note: str = Field(default="", max_length=MAX_NOTE)
    inputs: Literal["keep", "drop"] = "keep"
    """Whether images that wait in the window are kept; without them the snapshot does not replay exactly."""


class SnapshotView(Wire):
    """A snapshot in the store."""

    id: str
    stream: str
    name: str
    note: str
    model: str
    adapter: str
    fingerprint: str
    generation: int
    steps: int
    bytes: int
    sha256: str
    created: float
    contains_inputs: bool
    exact: bool


class SnapshotList(Wire):
    """A page of snapshots, newest first."""

    items: list[SnapshotView]
    next: str | None


class Restore(Given):
    """Which snapshot to continue from."""

    snapshot: str = Field(max_length=128)


class Restored(StreamView):
    """A stream after a restore, and why it may not replay bit for bit."""

    tta_warning: str = ""


class AdapterPart(Wire):
    """A part that a spec may name."""

    name: str
    kind: Literal["normalizer", "learner", "output", "selector"]
    summary: str
    remembers: str
    needs: list[str]
    options: dict[str, Any]
    paper: str


class AdapterList(Wire):
    """All parts."""

    items: list[AdapterPart]
    next: str | None = None


class GroupView(Wire):
    """What it brings to take several streams' steps as one, for requests of so many images.

    `least_streams` is the fewest that go together, 0 where it does not pay; `gain` how many times faster than one by
    one the largest group tried is.
    """

    images: int
    least_streams: int
    gain: float
    reason: str


class NativeView(Wire):
    """A step with a gradient that is compiled to machine code, or was to be, for requests of so many images.

    `serves` tells whether it is taken, `reason` why not; `gain` how many times faster it is, 0 if not known.
    """

    images: int
    serves: bool
    gain: float
    reason: str


class PipelineView(Wire):
    """A pipeline fitted to a model: what runs it, and why it has no graph where it is not compiled.

    `least_images` is the fewest of a request that the graph takes; `state_bytes` what a stream of it keeps; `groups`
    what was measured of taking steps of several streams as one, unless `not_grouped` says why they never are; `native`
    its steps in machine code, where `compiled_gradients` asks for them.
    """

    adapter: str
    options: dict[str, Any]
    backend: str
    least_images: int
    reason: str
    state_bytes: int
    groups: list[GroupView]
    not_grouped: str
    native: list[NativeView]


class ModelView(Wire):
    """A served model, and the pipelines that are fitted to it."""

    name: str
    version: str
    description: str
    licence: str
    fingerprint: str
    backend: str
    adapter: str
    classes: list[str]
    input: dict[str, Any]
    artefacts: list[str]
    pipelines: list[PipelineView]


class ModelList(Wire):
    """All served models."""

    items: list[ModelView]
    next: str | None = None


class EventView(Wire):
    """Something that happened to a stream, and why."""

    id: int
    time: float
    kind: str
    stream: str
    model: str
    action: str
    reason: str
    figures: dict[str, float]


class EventList(Wire):
    """A page of events, the oldest first; `next` is the `since` of the next page."""

    items: list[EventView]
    next: int | None


class FeedbackItem(Given):
    """The true labels of one earlier request."""

    request: str = Field(min_length=1, max_length=256)
    """The request's id, as its answer said."""
    labels: Annotated[list[str | StrictInt], Field(min_length=1, max_length=4096, fail_fast=True)]
    """One for each image: a class's name or number."""


class FeedbackGiven(Given):
    """Late labels for earlier requests of a stream."""

    items: Annotated[list[FeedbackItem], Field(min_length=1, max_length=1000, fail_fast=True)]


class FeedbackView(Wire):
    """What late labels say so far."""

    accepted: int
    """Images that these labels were taken for."""
    unknown: list[str]
    """Requests that are not known, too old, or labelled already."""
    images: int
    accuracy: float | None
    recent_accuracy: float | None
    """Of late: an image fades over 500 others."""
    source_accuracy: float | None
    """Of the source model, on the requests that it looked at."""
    estimates: dict[str, float]
    """What was estimated for the same images."""
    errors: dict[str, float]
    """Each estimate less the true accuracy."""


class StreamRow(Wire):
    """A stream in brief."""

    id: str
    model: str
    adapter: str
    mode: Mode
    badge: Literal["new", "steady", "drifting", "guarded", "suspected", "held", "frozen", "shadow", "resting"]
    reason: str
    generation: int
    steps: int
    requests: int
    images: int
    state_bytes: int
    created: float
    last_used: float
    entropy: float | None
    drift: float | None
    agreement: float | None
    source_gap: float | None
    spark: list[float]


class ModelRow(Wire):
    """A served model in brief."""

    name: str
    classes: list[str]
    adapter: str


class Overview(Wire):
    """All streams and models in brief; `event` is the newest event's id."""

    streams: list[StreamRow]
    models: list[ModelRow]
    event: int | None


class ComparedView(Wire):
    """The features of the newest images beside the source's, by two-sample tests."""

    mmd: float
    p_value: float
    unlike: float
    """Share of the dimensions that differ."""


class ProbeView(Wire):
    """How a state answered the probe set."""

    accuracy: float
    forgetting: float
    source_gap: float
    generation: int
    steps: int
    time: float
    compared: ComparedView | None


class HistoryView(Wire):
    """A stream's series: one row of `columns` for each point; null where a value is not known."""

    columns: list[str]
    points: list[list[float | None]]
    resolution: int | None
    """Seconds that a point stands for, where a span was asked for; else the finer, the newer."""
    oldest: float | None
    """When the oldest point that is still known is of, Unix seconds."""
    next: int
    layers: dict[str, Any]
    classes: dict[str, Any]
    entropies: list[float]
    """Share of the images by entropy, in twenty equal steps from 0 to ln(classes)."""
    probe: ProbeView | None
    events: list[EventView]
    misfits: list[dict[str, Any]]
