"""Events about streams, as the API answers them."""

from service.views.view import View


class EventView(View):
    """An event about a stream, and its reason."""

    id: int
    time: float
    kind: str
    stream: str
    model: str
    action: str
    reason: str
    figures: dict[str, float]


class EventList(View):
    """A page of events, oldest first; `next` is the `since` of the next page."""

    items: list[EventView]
    next: int | None
