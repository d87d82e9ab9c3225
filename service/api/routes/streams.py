"""/v1/streams: create, list, inspect, change, reset, end."""

import json
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from service.api.bodies import StreamCreate, StreamPatch
from service.api.headers import DryRun, IfMatch, generation_of
from service.api.problems import responses
from service.monitoring.shadow import ShadowReport
from service.serving.controlplane import Controlplane
from service.streams.records import Record
from service.streams.stream import Stream
from service.types import Durability
from service.views.streams import ShadowView, StreamList, StreamView

MOVES = 5
"""Most class changes that a shadow report lists."""
StreamId = Annotated[str, Path()]
After = Annotated[str, Query(max_length=128, description="The `next` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def router(control: Controlplane, default_durability: Durability) -> APIRouter:
    """Return the stream routes."""
    routes = APIRouter(prefix="/v1/streams", tags=["control plane"])

    @routes.get("")
    async def list_streams(after: After = "", limit: Limit = 100) -> StreamList:
        """All streams, by id."""
        streams = sorted((*control.table, *control.table.resting.values()), key=lambda stream: stream.id)
        page = list(islice((stream for stream in streams if stream.id > after), limit + 1))
        more = page[limit - 1].id if len(page) > limit else None
        items = [resting_view(stream) if isinstance(stream, Record) else view(stream) for stream in page[:limit]]
        return StreamList(items=items, next=more)

    @routes.post("", status_code=201, responses=responses(400, 404, 409, 413, 415, 422, 503))
    async def create_stream(body: StreamCreate) -> StreamView:
        """Create a stream."""
        return view(
            await control.create(
                body.id,
                body.model,
                body.adapter,
                body.options,
                mode=body.mode,
                policy=body.guard,
                adapt_batch_size=body.adapt_batch_size,
                durability=body.durability or default_durability,
                idempotent=body.idempotent,
            )
        )

    @routes.get("/{stream_id}", responses=responses(404, 422, 503))
    async def get_stream(stream_id: StreamId, response: Response) -> StreamView:
        """One stream. The ETag is its generation, for If-Match."""
        stream = await control.residence.get(stream_id)
        response.headers["ETag"] = f'"{stream.current.generation}"'
        return view(stream)

    routes.include_router(_changes(control))
    return routes


def _changes(control: Controlplane) -> APIRouter:
    """Return the routes that change a stream."""
    routes = APIRouter()

    async def existing(stream_id: StreamId) -> None:
        control.check_exists(stream_id)

    # The path is checked before the body: an unknown stream is 404 whatever the body holds.
    @routes.patch(
        "/{stream_id}",
        dependencies=[Depends(existing)],
        responses=responses(400, 404, 409, 412, 413, 415, 422, 429, 503, 504, 507),
    )
    async def change_stream(
        stream_id: StreamId, body: StreamPatch, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> StreamView:
        """Change mode, adapter, options or adaptation batch. A new adapter starts from its initial state."""
        if dry_run:
            return view(await control.check_change(stream_id, generation_of(if_match), body.adapter, body.options))
        changes = {name: getattr(body, name) for name in StreamPatch.model_fields}
        return view(await control.change(stream_id, generation_of(if_match), **changes))

    @routes.delete("/{stream_id}", status_code=204, responses=responses(404, 409, 412, 422, 429, 503, 504, 507))
    async def end_stream(stream_id: StreamId, if_match: IfMatch = None, dry_run: DryRun = False) -> None:
        """End a stream and delete its state; its snapshots stay. Unfit and damaged streams can be ended too."""
        if dry_run:
            await control.check_delete(stream_id, generation_of(if_match))
            return
        await control.delete(stream_id, generation_of(if_match))

    @routes.post("/{stream_id}/reset", responses=responses(404, 409, 412, 422, 429, 503, 504, 507))
    async def reset_stream(stream_id: StreamId, if_match: IfMatch = None, dry_run: DryRun = False) -> StreamView:
        """Return a stream to the source state."""
        if dry_run:
            return view(await control.check_change(stream_id, generation_of(if_match)))
        return view(await control.reset(stream_id, generation_of(if_match)))

    return routes


def view(stream: Stream) -> StreamView:
    """Return a stream in its form for the API."""
    value, config = stream.current, stream.current.config
    return StreamView(
        id=stream.id,
        model=config.model.name,
        adapter=config.fitted.spec,
        options=dict(config.fitted.options),
        mode=config.mode,
        guard=config.policy.model_dump(),
        adapt_batch_size=config.adapt_batch_size,
        durability=config.durability,
        idempotent=config.idempotent,
        resident=True,
        generation=value.generation,
        durable_generation=stream.stored.durable_generation,
        steps=value.steps,
        waiting_images=len(value.state.window),
        state_bytes=value.state.size_bytes,
        created=stream.created,
        last_used=stream.last_used,
        signals={**value.readings.monitored, **value.readings.signals},
        choice=value.explanation,
        shadow=shadow_view(stream, value.readings.shadow) if value.readings.shadow.images else None,
    )


def resting_view(record: Record) -> StreamView:
    """Return a resting stream in its form for the API, from its record alone."""
    settings, figures = json.loads(record.settings), json.loads(record.figures)
    return StreamView(
        **settings,
        id=record.id,
        model=record.model,
        adapter=record.adapter,
        durability=record.durability,
        resident=False,
        generation=record.ceiling,
        durable_generation=record.generation,
        steps=figures["steps"],
        waiting_images=0,
        state_bytes=figures["state_bytes"],
        created=record.created,
        last_used=record.last_used,
        signals={},
        choice="",
        shadow=None,
    )


def shadow_view(stream: Stream, report: ShadowReport) -> ShadowView:
    """Return the changes that adapting would have made."""
    classes = stream.model.bundle.classes
    return ShadowView(
        images=report.images,
        changed=report.changed / report.images,
        entropy=report.entropy / report.images,
        source_entropy=report.source_entropy / report.images,
        accuracy=stream.feedback.true.accuracy,
        source_accuracy=stream.feedback.source.accuracy,
        moves=[
            {"source": classes[one], "adapted": classes[other], "images": images}
            for one, other, images in report.commonest(MOVES)
        ],
    )
