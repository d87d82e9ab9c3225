"""Request and response bodies of the control plane."""

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
    """Refuse an object with very many entries as a whole, since each entry could cause an error of its own."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries were given, at most {MAX_ENTRIES} are expected")
    return value


Few = BeforeValidator(check_few)
PartOptions = Annotated[dict[str, str | int | float | bool | None], Few]
Options = Annotated[dict[str, PartOptions | StrictInt], Few]
Guard = Annotated[Policy, Few]


class Wire(BaseModel):
    """A body of the control plane. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Given(Wire):
    """A body that a client sends."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return check_few(value)


class StreamCreate(Given):
    """A stream to create. Omitted fields take the model's defaults."""

    id: Name | None = None
    """The stream's name; without one the server makes one up."""
    model: str | None = Field(default=None, max_length=128)
    """The model's name; required if the server has several models."""
    adapter: str | None = Field(default=None, min_length=1, max_length=MAX_SPEC)
    """The spec, such as `unmix_tns+eta+lame`."""
    options: Options = {}
    """Options by part name, `seed`, and `precision` (float32, or bfloat16 if the processor supports it):
    {"tent": {"lr": 1e-4}, "seed": 7}."""
    guard: Guard = Policy()
    """The guard's policy: its action on each finding of the monitors."""
    mode: Mode = "adapt"
    """adapt: learn from every batch. frozen: answer from the present state. shadow: answer as the source model, and
    learn without effect on the answers."""
    durability: Durability | None = None
    """ephemeral: in memory only. periodic: saved every few steps or seconds. sync: saved before each answer."""
    adapt_batch_size: int = Field(default=1, ge=1, le=LARGEST_BATCH)
    """Images in one adaptation step. Smaller requests are answered at once, and their images wait in the window."""
    idempotent: bool = False
    """Refuse a request id that comes with another body (409). Otherwise it is a new request."""


class StreamPatch(Given):
    """Changes to a stream. A new adapter starts from its initial state; all other changes keep the learned state."""

    mode: Mode | None = None
    adapter: str | None = Field(default=None, min_length=1, max_length=MAX_SPEC)
    options: Options | None = None
    guard: Guard | None = None
    adapt_batch_size: int | None = Field(default=None, ge=1, le=LARGEST_BATCH)
    durability: Durability | None = None
    idempotent: bool | None = None


class ShadowView(Wire):
    """The changes that adapting would have made while a stream answered as the source model."""

    images: int
    changed: float
    """Share of the images with another label from the adapted model."""
    entropy: float
    source_entropy: float
    accuracy: float | None
    """Accuracy of the adapted answers, by late labels."""
    source_accuracy: float | None
    moves: list[dict[str, str | int]]
    """The most common changes: `source` and `adapted` class, and the number of `images`."""


class StreamView(Wire):
    """A stream's settings and state."""

    id: str
    model: str
    adapter: str
    options: dict[str, Any]
    mode: Mode
    guard: Policy
    adapt_batch_size: int
    durability: Durability
    idempotent: bool = False
    """True if a request id that comes with another body is refused."""
    resident: bool
    """True if the stream is in memory. Otherwise it rests in the store until it is used."""
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
    """The changes that adapting would have made; only for streams that were in shadow mode."""


class StreamList(Wire):
    """A page of streams; `next` is the `after` of the next page."""

    items: list[StreamView]
    next: str | None


class SnapshotCreate(Given):
    """A snapshot to take."""

    name: Name | None = None
    note: str = Field(default="", max_length=MAX_NOTE)
    inputs: Literal["keep", "drop"] = "keep"
    """Keep or drop the images that wait in the window. Without them the snapshot does not replay exactly."""


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
    """The snapshot to continue from."""

    snapshot: str = Field(max_length=128)


class Restored(StreamView):
    """A stream after a restore, and the reasons why it may not replay bit for bit."""

    tta_warning: str = ""


class AdapterPart(Wire):
    """A part that a spec can name."""

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
    """The gain from batching several streams' steps, for requests with this many images.

    `least_streams` is the fewest streams that make batching faster, or 0 if it never is. `gain` is the speedup of
    the largest group tried.
    """

    images: int
    least_streams: int
    gain: float
    reason: str


class NativeView(Wire):
    """A gradient step's compilation to machine code, for requests with this many images.

    `serves` is true if the compiled step is used; otherwise `reason` says why not. `gain` is its speedup, 0 if unknown.
    """

    images: int
    serves: bool
    gain: float
    reason: str


class PipelineView(Wire):
    """A pipeline fitted to a model, and its backend; `reason` says why it has no graph.

    `least_images` is the fewest images in a request that the graph accepts. `state_bytes` is the size of a stream's
    state. `groups` lists measurements of batched steps; `not_grouped` says why steps are never batched. `native` lists
    its steps in machine code, if `compiled_gradients` is set.
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
    """A served model and its fitted pipelines."""

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
    """An event about a stream, and its reason."""

    id: int
    time: float
    kind: str
    stream: str
    model: str
    action: str
    reason: str
    figures: dict[str, float]


class EventList(Wire):
    """A page of events, oldest first; `next` is the `since` of the next page."""

    items: list[EventView]
    next: int | None


class FeedbackItem(Given):
    """The true labels of one earlier request."""

    request: str = Field(min_length=1, max_length=256)
    """The request's id, as in its answer."""
    labels: Annotated[list[str | StrictInt], Field(min_length=1, max_length=4096, fail_fast=True)]
    """One label for each image: a class's name or number."""


class FeedbackGiven(Given):
    """Late labels for earlier requests of a stream."""

    items: Annotated[list[FeedbackItem], Field(min_length=1, max_length=1000, fail_fast=True)]


class FeedbackView(Wire):
    """The results of all late labels so far."""

    accepted: int
    """Images that got a label from this call."""
    unknown: list[str]
    """Requests that are unknown, too old, or labelled already."""
    images: int
    accuracy: float | None
    recent_accuracy: float | None
    """Accuracy with a decaying weight: an image fades over 500 later ones."""
    source_accuracy: float | None
    """Accuracy of the source model on the requests that it was run on."""
    estimates: dict[str, float]
    """Accuracy that was estimated for the same images, by estimator."""
    errors: dict[str, float]
    """Each estimate minus the true accuracy."""


class StreamRow(Wire):
    """A stream's row in the overview."""

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
    """A served model's row in the overview."""

    name: str
    classes: list[str]
    adapter: str


class Overview(Wire):
    """All streams and models; `event` is the newest event's id."""

    streams: list[StreamRow]
    models: list[ModelRow]
    event: int | None


class ComparedView(Wire):
    """The features of the newest images against the source's, by two-sample tests."""

    mmd: float
    p_value: float
    unlike: float
    """Share of the dimensions that differ."""


class ProbeView(Wire):
    """A state's results on the probe set."""

    accuracy: float
    forgetting: float
    source_gap: float
    generation: int
    steps: int
    time: float
    compared: ComparedView | None


class HistoryView(Wire):
    """A stream's series: one row of `columns` for each point, with null for unknown values."""

    columns: list[str]
    points: list[list[float | None]]
    resolution: int | None
    """Seconds that a point stands for, if a span was requested; otherwise newer points are finer."""
    oldest: float | None
    """The time of the oldest point, in Unix seconds."""
    next: int
    layers: dict[str, Any]
    classes: dict[str, Any]
    entropies: list[float]
    """Share of the images by entropy, in twenty equal steps from 0 to ln(classes)."""
    probe: ProbeView | None
    events: list[EventView]
    misfits: list[dict[str, Any]]
