"""The overview of all streams and models."""

from typing import Annotated, Literal

from service.types import Mode
from service.views.view import Checked, View

Badge = Literal["new", "steady", "drifting", "guarded", "suspected", "held", "frozen", "shadow", "resting"]


class StreamRow(View):
    """A stream's row in the overview."""

    id: str
    model: str
    adapter: str
    mode: Annotated[str, Checked(Mode)]
    badge: Annotated[str, Checked(Badge)]
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


class ModelRow(View):
    """A served model's row in the overview."""

    name: str
    classes: list[str]
    adapter: str


class Overview(View):
    """All streams and models; `event` is the newest event's id."""

    streams: list[StreamRow]
    models: list[ModelRow]
    event: int | None
