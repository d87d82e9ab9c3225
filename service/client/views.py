"""What the server tells of streams, snapshots and events, as a client reads it.

These are not the models of `service.api.schemas`, although a test holds both to the same names: the server's forbid
what they do not know at every level, and name each mode, so that a client of today would refuse a server of tomorrow;
and importing them loads torch, two seconds before the first line of `acclimate streams list`. What a newer server adds
is kept here as an attribute, and printed by `--json` as it came.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Told(BaseModel):
    """Something that a server told; fields that are not known here are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    def json_text(self) -> str:
        """Return it as the server sent it: all of its fields and no others."""
        return self.model_dump_json(exclude_unset=True)


class ShadowView(Told):
    """What adapting would have changed while a stream answered as the source model."""

    images: int
    changed: float
    """Share of the images that the adapted model answers otherwise."""
    entropy: float
    source_entropy: float
    accuracy: float | None = None
    source_accuracy: float | None = None
    moves: list[dict[str, str | int]] = []
    """The commonest changes: `source` and `adapted` class, and `images`."""


class StreamView(Told):
    """A stream as it is."""

    id: str
    model: str
    adapter: str
    options: dict[str, Any] = {}
    mode: str
    guard: dict[str, Any] = {}
    adapt_batch_size: int = 1
    generation: int
    durable_generation: int = 0
    steps: int
    waiting_images: int = 0
    state_bytes: int = 0
    created: float
    last_used: float
    signals: dict[str, float] = {}
    choice: str = ""
    shadow: ShadowView | None = None
    durability: str | None = None
    """How its state is kept, where the server says so: ephemeral, periodic or sync."""
    idempotent: bool = False
    """Whether a request id that comes with another body is refused."""
    resident: bool | None = None
    """Whether its state is in memory, where the server says so."""


class Restored(StreamView):
    """A stream after a restore, and why it may not replay bit for bit."""

    tta_warning: str = ""


class ModelView(Told):
    """A served model."""

    name: str
    version: str = ""
    description: str = ""
    licence: str = ""
    fingerprint: str = ""
    backend: str = ""
    adapter: str
    """The default spec of its streams."""
    classes: list[str] = []
    input: dict[str, Any] = {}
    artefacts: list[str] = []
    pipelines: list[dict[str, Any]] = []


class AdapterView(Told):
    """A part that a spec may name."""

    name: str
    kind: str
    summary: str = ""
    remembers: str = ""
    needs: list[str] = []
    options: dict[str, Any] = {}
    """The JSON Schema of its options."""
    paper: str = ""


class StreamRow(Told):
    """A stream in brief, as the overview tells it."""

    id: str
    badge: str
    reason: str = ""
    requests: int = 0
    images: int = 0
    source_gap: float | None = None
    """Accuracy on the probe set that it has lost against the source model; None where it was not measured."""


class Overview(Told):
    """All streams in brief, and the newest event's id."""

    streams: list[StreamRow]
    event: int | None


class SnapshotView(Told):
    """A snapshot in the store."""

    id: str
    stream: str
    name: str
    note: str = ""
    model: str
    adapter: str
    fingerprint: str = ""
    generation: int
    steps: int
    bytes: int
    sha256: str = ""
    created: float
    contains_inputs: bool = False
    exact: bool = True


class EventView(Told):
    """Something that happened to a stream, and why."""

    id: int
    time: float
    kind: str
    stream: str
    model: str
    action: str
    reason: str
    figures: dict[str, float] = {}


class FeedbackView(Told):
    """What late labels say so far."""

    accepted: int
    unknown: list[str] = []
    """Requests that are not known, too old, or labelled already."""
    images: int
    accuracy: float | None = None
    recent_accuracy: float | None = None
    source_accuracy: float | None = None
    estimates: dict[str, float] = {}
    errors: dict[str, float] = {}
    """Each estimate less the true accuracy."""


class HistoryView(Told):
    """A stream's series: one row of `columns` for each point."""

    columns: list[str]
    points: list[list[float | None]]
    next: int
    """The `since` of the next call."""


class Page(Told):
    """A page of a list; `next` asks for the one after it."""

    items: list[dict[str, Any]]
    next: str | int | None
