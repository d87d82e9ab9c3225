"""A stream's settings and state, as the API answers them."""

from typing import Annotated, Any

from service.monitoring.guard import Policy
from service.types import Durability, Mode
from service.views.view import Checked, View


class ShadowView(View):
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


class StreamView(View):
    """A stream's settings and state."""

    id: str
    model: str
    adapter: str
    options: dict[str, Any]
    mode: Annotated[str, Checked(Mode)]
    guard: Annotated[dict[str, Any], Checked(Policy)]
    adapt_batch_size: int
    durability: Annotated[str, Checked(Durability)]
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


class StreamList(View):
    """A page of streams; `next` is the `after` of the next page."""

    items: list[StreamView]
    next: str | None


class Restored(StreamView):
    """A stream after a restore, and the reasons why it may not replay bit for bit."""

    tta_warning: str = ""
