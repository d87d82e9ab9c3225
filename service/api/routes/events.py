"""/v1/events: the log of actions on streams and their reasons, page by page and live."""

import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.storage.event_log import EventLog
from service.streams.records import Event
from service.views.events import EventList, EventView

Since = Annotated[int, Query(ge=0, le=2**62, description="Return events with greater ids.")]
OfStream = Annotated[str | None, Query(max_length=128, description="Return events of this stream only.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="Resume after this event.")]

EVENT_ID = re.compile(r"[0-9]{1,19}")


def router(events: EventLog) -> APIRouter:
    """Return the event routes."""
    routes = APIRouter(prefix="/v1/events", tags=["control plane"])

    @routes.get("")
    async def list_events(since: Since = 0, limit: Limit = 100, stream: OfStream = None) -> EventList:
        """Events with greater ids than `since`, oldest first."""
        found = await events.read(since, limit, stream)
        return EventList(
            items=[event_view(event) for event in found], next=found[-1].id if len(found) == limit else None
        )

    @routes.get("/live", response_class=EventSourceResponse)
    async def live_events(
        since: Since | None = None, stream: OfStream = None, last_event_id: LastEventId = None
    ) -> AsyncIterator[ServerSentEvent]:
        """New events, starting after `since` or Last-Event-ID; without either, from now on."""
        after = events.last if since is None else since
        if last_event_id is not None and EVENT_ID.fullmatch(last_event_id):
            after = min(int(last_event_id), events.last)
        async for page in events.follow(after, stream):
            for event in page:
                yield ServerSentEvent(event="event", data=event_view(event).model_dump(), id=str(event.id))

    return routes


def event_view(event: Event) -> EventView:
    """Return an event in its form for the API."""
    return EventView(**asdict(event))
