"""Snapshots: take, list, restore, download, upload, delete."""

from functools import partial
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Request, Response

from service.api.bodies import Restore, SnapshotCreate
from service.api.headers import DryRun, IfMatch, generation_of
from service.api.middleware.body import read_body
from service.api.problems import responses
from service.api.routes.streams import After, Limit, StreamId, view
from service.serving.controlplane import Controlplane
from service.storage.snapshots.format import Manifest
from service.views.snapshots import SnapshotList, SnapshotView
from service.views.streams import Restored

SnapshotId = Annotated[str, Path()]
FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def router(control: Controlplane) -> APIRouter:
    """Return the routes of a stream's snapshots."""
    routes = APIRouter(prefix="/v1", tags=["control plane"])

    async def existing(stream_id: StreamId) -> None:
        control.check_exists(stream_id)

    must_exist = [Depends(existing)]

    @routes.get("/streams/{stream_id}/snapshots")
    async def list_snapshots(stream_id: StreamId, after: After = "", limit: Limit = 100) -> SnapshotList:
        """A stream's snapshots, newest first, also those of an ended stream."""
        return await control.calls.run(partial(_page, control, stream_id, after, limit))

    @routes.post(
        "/streams/{stream_id}/snapshots",
        dependencies=must_exist,
        status_code=201,
        responses=responses(400, 404, 409, 413, 415, 422, 429, 503, 504, 507),
    )
    async def take_snapshot(stream_id: StreamId, body: Annotated[SnapshotCreate | None, Body()] = None) -> SnapshotView:
        """Save a stream's state as a snapshot."""
        options = body or SnapshotCreate()
        return snapshot_view(
            *await control.take(stream_id, options.name, options.note, drop_inputs=options.inputs == "drop")
        )

    @routes.post(
        "/streams/{stream_id}/restore",
        dependencies=must_exist,
        responses=responses(400, 404, 409, 412, 413, 415, 422, 429, 503, 504, 507),
    )
    async def restore_stream(
        stream_id: StreamId, body: Restore, if_match: IfMatch = None, dry_run: DryRun = False
    ) -> Restored:
        """Continue a stream from a snapshot of the same model and spec."""
        restore = control.check_restore if dry_run else control.restore
        stream, warning = await restore(stream_id, body.snapshot, generation_of(if_match))
        return Restored(**view(stream).model_dump(), tta_warning=warning)

    return routes


def store_router(control: Controlplane, max_body_bytes: int) -> APIRouter:
    """Return the routes of snapshots by their own ids."""
    routes = APIRouter(prefix="/v1", tags=["control plane"])

    @routes.post(
        "/snapshots",
        status_code=201,
        responses=responses(400, 409, 413, 415, 422, 503, 507),
        openapi_extra={"requestBody": {"required": True, "content": FILE}},
    )
    async def upload_snapshot(request: Request) -> SnapshotView:
        """Store a snapshot file that was downloaded from this or another server."""
        return snapshot_view(*await control.upload(await read_body(request, max_body_bytes)))

    @routes.get("/snapshots/{snapshot_id}", responses=responses(404, 503))
    async def get_snapshot(snapshot_id: SnapshotId) -> SnapshotView:
        """One snapshot's manifest."""
        return snapshot_view(*await control.calls.run(partial(control.snapshot, snapshot_id)))

    @routes.delete("/snapshots/{snapshot_id}", status_code=204, responses=responses(404, 503))
    async def delete_snapshot(snapshot_id: SnapshotId) -> None:
        """Delete a snapshot for good."""
        await control.calls.run(partial(control.delete_snapshot, snapshot_id))

    @routes.get(
        "/snapshots/{snapshot_id}/download",
        response_class=Response,
        responses={200: {"content": FILE, "description": "A safetensors file."}, **responses(404, 422, 503)},
    )
    async def download_snapshot(snapshot_id: SnapshotId) -> Response:
        """The snapshot as one safetensors file."""
        content = await control.calls.run(partial(control.snapshot_file, snapshot_id))
        disposition = f'attachment; filename="{snapshot_id}.safetensors"'
        headers = {"Content-Disposition": disposition}
        return Response(content, media_type="application/octet-stream", headers=headers)

    return routes


def _page(control: Controlplane, stream_id: str, after: str, limit: int) -> SnapshotList:
    """Return a page. `after` is the mark of the previous page's last snapshot, which may have been deleted since."""
    entries = control.snapshots(stream_id)
    if after:
        entries = (entry for entry in entries if _mark(entry[0]) < after)
    page = list(islice(entries, limit + 1))
    more = _mark(page[limit - 1][0]) if len(page) > limit else None
    return SnapshotList(items=[snapshot_view(*entry) for entry in page[:limit]], next=more)


def _mark(manifest: Manifest) -> str:
    """Return a text that sorts as snapshots do: by time, then id."""
    return f"{manifest.created:020.6f}-{manifest.id}"


def snapshot_view(manifest: Manifest, size_bytes: int) -> SnapshotView:
    """Return a snapshot in its form for the API."""
    fields = set(SnapshotView.model_fields) - {"bytes"}
    return SnapshotView(bytes=size_bytes, **manifest.model_dump(include=fields))
