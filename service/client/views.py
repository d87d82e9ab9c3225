"""The client's models of the server's answers: streams, snapshots, events and others.

They have the same names as the models of `service.api.schemas` (a test compares both), but differ for two reasons. The
server's models forbid unknown fields and list every mode, so an old client would refuse a newer server's answers. And
importing them loads torch, which would delay `acclimate streams list` by two seconds. These models keep fields that a
newer server adds as attributes, and `--json` prints them unchanged.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Told(BaseModel):
    """The base of all views; it keeps unknown fields."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    def json_text(self) -> str:
        """Return the fields that the server sent, and no others, as JSON."""
        return self.model_dump_json(exclude_unset=True)


class ShadowView(Told):
    """The report of shadow mode: how the adapted model's answers would have differed from the source model's."""

    images: int
    changed: float
    """Share of the images for which the adapted model would answer another class."""
    entropy: float
    source_entropy: float
    accuracy: float | None = None
    source_accuracy: float | None = None
    moves: list[dict[str, str | int]] = []
    """The most frequent changes: `source` and `adapted` class, and the number of `images`."""


class StreamView(Told):
    """A stream's settings and current state."""

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
    """How its state is saved: ephemeral, periodic or sync; None if the server does not say."""
    idempotent: bool = False
    """Whether the server refuses a request id that is reused with another body."""
    resident: bool | None = None
    """Whether its state is in memory; None if the server does not say."""


class Restored(StreamView):
    """A stream after a restore; `tta_warning` says why its answers may not be reproduced bit for bit."""

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
    """The default spec of the model's streams."""
    classes: list[str] = []
    input: dict[str, Any] = {}
    artefacts: list[str] = []
    pipelines: list[dict[str, Any]] = []


class AdapterView(Told):
    """A part that a spec can name."""

    name: str
    kind: str
    summary: str = ""
    remembers: str = ""
    needs: list[str] = []
    options: dict[str, Any] = {}
    """The JSON Schema of its options."""
    paper: str = ""


class StreamRow(Told):
    """A stream's summary in the overview."""

    id: str
    badge: str
    reason: str = ""
    requests: int = 0
    images: int = 0
    source_gap: float | None = None
    """Accuracy on the probe set lost against the source model; None if it was not measured."""


class Overview(Told):
    """The summaries of all streams, and the newest event's id."""

    streams: list[StreamRow]
    event: int | None


class SnapshotView(Told):
    """The manifest of a stored snapshot."""

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
    """An event of a stream, with its reason."""

    id: int
    time: float
    kind: str
    stream: str
    model: str
    action: str
    reason: str
    figures: dict[str, float] = {}


class FeedbackView(Told):
    """A stream's accuracy according to the late labels so far."""

    accepted: int
    unknown: list[str] = []
    """Ids of requests that are unknown, too old, or already labelled."""
    images: int
    accuracy: float | None = None
    recent_accuracy: float | None = None
    source_accuracy: float | None = None
    estimates: dict[str, float] = {}
    errors: dict[str, float] = {}
    """Each estimate minus the true accuracy."""


class HistoryView(Told):
    """A stream's time series: one row of `columns` for each point."""

    columns: list[str]
    points: list[list[float | None]]
    next: int
    """The `since` of the next call."""


class Page(Told):
    """A page of a list; `next` asks for the one after it."""

    items: list[dict[str, Any]]
    next: str | int | None
