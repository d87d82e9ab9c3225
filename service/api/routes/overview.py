"""/v1/overview and a stream's history: the dashboard's data, once and live."""

import base64
import io
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from PIL import Image

from adapters.monitors import entropy_bins
from service.api.problems import responses
from service.api.routes.events import event_view
from service.monitoring.history import COLUMNS, Misfit, Span
from service.monitoring.history_tiers import TIERS
from service.serving.overview import Watching
from service.serving.stream_cache import Residence
from service.streams.records import Record
from service.streams.stream import Stream
from service.views.history import HistoryView, ProbeView
from service.views.overview import ModelRow, Overview, StreamRow

StreamId = Annotated[str, Path()]
Since = Annotated[int, Query(ge=0, description="The `next` of an earlier answer; 0 for everything.")]
Seconds = Annotated[
    int | None,
    Query(
        ge=1,
        le=TIERS[-1].span,
        description="Return the newest so many seconds, at the finest resolution that reaches back that far: 1 s "
        "for 15 minutes, 10 s for 6 hours, 5 minutes for 14 days.",
    ),
]
SHOWN_EVENTS = 200


def router(watching: Watching, residence: Residence) -> APIRouter:
    """Return the routes for the dashboard's data."""
    routes = APIRouter(prefix="/v1", tags=["dashboard"])

    @routes.get("/overview")
    async def overview() -> Overview:
        """All streams in brief, the models, and the newest event's id."""
        models = [
            ModelRow(name=model.name, classes=list(model.bundle.classes), adapter=model.default.spec)
            for model in watching.models.values()
        ]
        rows = [row(watching, stream) for stream in watching.all()]
        return Overview(streams=rows, models=models, event=watching.events.last or None)

    @routes.get("/overview/live", response_class=EventSourceResponse)
    async def overview_live() -> AsyncIterator[ServerSentEvent]:
        """Streams that changed, at most once a second."""
        async for changed, gone in watching.changes():
            rows = [row(watching, stream).model_dump() for stream in changed]
            yield ServerSentEvent(event="streams", data={"streams": rows, "gone": gone})

    @routes.get("/streams/{stream_id}/history", responses=responses(404, 422, 503))
    async def history(stream_id: StreamId, since: Since = 0, seconds: Seconds = None) -> HistoryView:
        """A stream's series. Older points stand for more requests."""
        return view(watching, await residence.get(stream_id), since, seconds)

    async def existing(stream_id: StreamId) -> None:
        await residence.get(stream_id)

    @routes.get(
        "/streams/{stream_id}/history/live",
        response_class=EventSourceResponse,
        dependencies=[Depends(existing)],
        responses=responses(404, 422, 503),
    )
    async def history_live(stream_id: StreamId, since: Since = 0) -> AsyncIterator[ServerSentEvent]:
        """New points of a stream as they come, at most a few times a second."""
        stream = await residence.get(stream_id)
        async for _ in watching.moves(stream):
            points = view(watching, stream, since)
            since = points.next
            yield ServerSentEvent(event="points", data=points.model_dump(), id=str(since))

    return routes


def row(watching: Watching, stream: Stream | Record) -> StreamRow:
    """Return a stream's row."""
    return _resting_row(watching, stream) if isinstance(stream, Record) else _resident_row(watching, stream)


def _resting_row(watching: Watching, record: Record) -> StreamRow:
    badge, reason = watching.badge(record)
    figures = json.loads(record.figures)
    return StreamRow(
        id=record.id,
        model=record.model,
        adapter=record.adapter,
        mode=json.loads(record.settings)["mode"],
        badge=badge,
        reason=reason,
        generation=record.generation,
        steps=figures["steps"],
        requests=figures["requests"],
        images=figures["images"],
        state_bytes=figures["state_bytes"],
        created=record.created,
        last_used=record.last_used,
        entropy=None,
        drift=None,
        agreement=None,
        source_gap=None,
        spark=[],
    )


def _resident_row(watching: Watching, stream: Stream) -> StreamRow:
    badge, reason = watching.badge(stream)
    value, readings = stream.current, stream.current.readings
    return StreamRow(
        id=stream.id,
        model=value.config.model.name,
        adapter=value.config.fitted.spec,
        mode=value.config.mode,
        badge=badge,
        reason=reason,
        generation=value.generation,
        steps=value.steps,
        requests=value.counters.requests,
        images=value.counters.images,
        state_bytes=value.state.size_bytes,
        created=stream.created,
        last_used=stream.last_used,
        entropy=readings.signals.get("entropy"),
        drift=readings.signals.get("drift"),
        agreement=readings.signals.get("source_agreement"),
        source_gap=None if readings.probe is None else readings.probe.source_gap,
        spark=stream.history.sparks(),
    )


def view(watching: Watching, stream: Stream, since: int, seconds: int | None = None) -> HistoryView:
    """Return a stream's series since a cursor; all of it if the cursor is from an earlier server process.

    With `seconds`, the points cover that span, and everything else is since the cursor.
    """
    history, value = stream.history, stream.current
    monitors, probe = value.state.monitors, value.readings.probe
    since = 0 if since > history.cursor else since
    since_time = history.time_of(since)
    span = Span(history.since(since), None) if seconds is None else history.spanning(seconds)
    layers = [row for row in history.layers if row.time > since_time]
    return HistoryView(
        columns=list(COLUMNS),
        points=span.rows,
        resolution=span.resolution,
        oldest=history.oldest,
        next=history.cursor,
        layers={
            "names": list(monitors.seen),
            "times": [row.time for row in layers],
            "values": [[round(value, 4) for value in row.wasserstein] for row in layers],
            "divergences": [[round(value, 4) for value in row.divergence] for row in layers],
        },
        classes={
            "names": list(stream.model.bundle.classes),
            "shares": [round(float(share), 4) for share in monitors.answers.shares],
            "prior": [round(float(share), 4) for share in stream.model.reference.prior],
        },
        entropies=[round(float(share), 4) for share in entropy_bins.shares(monitors.entropies)],
        probe=None if probe is None else ProbeView(**asdict(probe)),
        events=[
            event_view(event) for event in watching.events.latest(stream.id, SHOWN_EVENTS) if event.time >= since_time
        ],
        misfits=[_misfit(stream, misfit) for misfit in history.misfits if misfit.time > since_time],
    )


def _misfit(stream: Stream, misfit: Misfit) -> dict[str, Any]:
    """Return an image with its answer, as a PNG in a data URL."""
    pixels = misfit.image.transpose(1, 2, 0)
    shown = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", compress_level=1)
    image = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    label = stream.model.bundle.classes[misfit.label]
    return {"time": misfit.time, "label": label, "entropy": misfit.entropy, "image": image}
