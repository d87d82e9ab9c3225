"""The client of one server: inference, streams, snapshots, events and late labels."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from service.client import live
from service.client.connection import Connection
from service.client.errors import RefusedError
from service.client.inference import HEADER_LENGTH, Answer, read_answer, request_body
from service.client.retrying import retried
from service.support.validation_messages import sentences
from service.types import Array
from service.views.events import EventList, EventView
from service.views.feedback import FeedbackView
from service.views.history import HistoryView
from service.views.models import AdapterList, AdapterPart, ModelList, ModelView
from service.views.overview import Overview, StreamRow
from service.views.snapshots import SnapshotList, SnapshotView
from service.views.streams import Restored, StreamList, StreamView
from service.views.view import View

AnyView = TypeVar("AnyView", bound=View)
Page = TypeVar("Page", StreamList, SnapshotList, EventList)
PAGE = 1000
FOLLOW_RETRIES = 6
"""Retries after a lost event connection: about half a minute, the time of a server restart."""


class Client:
    """The client of one server. Close it, or use it in a `with` block. Methods raise RefusedError if a call fails.

    Args:
        url: The server's address.
        key: An API key, if the server requires one.
        timeout_seconds: The timeout of each call.
        retries: How often `infer` tries again after a lost connection or a temporary refusal. All tries have the same
            request id, so the stream does not learn twice from one batch.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     for stream in client.streams():
        ...         print(stream.id, stream.generation, stream.signals.get("entropy"))
    """

    def __init__(self, url: str, key: str | None = None, timeout_seconds: float = 60.0, retries: int = 0) -> None:
        self._connection = Connection(url, key, timeout_seconds)
        self._retries = retries

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def infer(
        self, model: str, input_name: str, x: Array, stream: str | None = None, request_id: str | None = None
    ) -> Answer:
        """Send a batch x (N, C, H, W), float32 or uint8, to a stream; None is the model's shared, frozen stream.

        If `retries` is not 0 and no `request_id` is passed, the client makes one.
        """
        request_id = uuid.uuid4().hex if request_id is None and self._retries else request_id
        body, headers = request_body(input_name, x, stream, request_id)
        path = f"/v2/models/{quote(model, safe='')}/infer"
        response = retried(lambda: self._connection.send("POST", path, content=body, headers=headers), self._retries)
        return read_answer(response.content, int(response.headers[HEADER_LENGTH]))

    def ready(self) -> bool:
        """Return whether the server accepts requests; False while it starts or drains, or if it does not answer."""
        try:
            self._connection.send("GET", "/v2/health/ready")
        except RefusedError:
            return False
        return True

    def models(self) -> list[ModelView]:
        """Return all served models."""
        return _view(ModelList, self._send("GET", "/v1/models")).items

    def adapters(self) -> list[AdapterPart]:
        """Return all parts that a spec can name."""
        return _view(AdapterList, self._send("GET", "/v1/adapters")).items

    def streams(self) -> Iterator[StreamView]:
        """Yield all streams, ordered by id, page by page."""
        return (stream for page in self._pages(StreamList, "/v1/streams", "after") for stream in page.items)

    def overview(self) -> list[StreamRow]:
        """Return a summary of every stream, with a badge for its health."""
        return _view(Overview, self._send("GET", "/v1/overview")).streams

    def stream(self, stream_id: str) -> StreamView:
        """Return one stream."""
        return _view(StreamView, self._send("GET", _stream(stream_id)))

    def create(self, settings: Mapping[str, Any]) -> StreamView:
        """Create a stream; omitted settings get the model's defaults."""
        return _view(StreamView, self._send("POST", "/v1/streams", settings))

    def change(
        self, stream_id: str, settings: Mapping[str, Any], generation: int | None = None, *, dry_run: bool = False
    ) -> StreamView:
        """Change settings of a stream.

        `generation`, here and in the calls below, makes the server refuse the call if the stream is at another one.
        `dry_run` makes the server check the call and change nothing.
        """
        return _view(StreamView, self._send("PATCH", _dry(_stream(stream_id), dry_run), settings, generation))

    def reset(self, stream_id: str, generation: int | None = None, *, dry_run: bool = False) -> StreamView:
        """Reset a stream to the source state."""
        return _view(StreamView, self._send("POST", _dry(f"{_stream(stream_id)}/reset", dry_run), None, generation))

    def delete(self, stream_id: str, generation: int | None = None, *, dry_run: bool = False) -> None:
        """Delete a stream."""
        self._send("DELETE", _dry(_stream(stream_id), dry_run), None, generation)

    def restore(
        self, stream_id: str, snapshot_id: str, generation: int | None = None, *, dry_run: bool = False
    ) -> Restored:
        """Restore a stream from a snapshot."""
        path, body = _dry(f"{_stream(stream_id)}/restore", dry_run), {"snapshot": snapshot_id}
        return _view(Restored, self._send("POST", path, body, generation))

    def snapshots(self, stream_id: str) -> Iterator[SnapshotView]:
        """Yield a stream's snapshots, newest first, page by page."""
        pages = self._pages(SnapshotList, f"{_stream(stream_id)}/snapshots", "after")
        return (snapshot for page in pages for snapshot in page.items)

    def take(self, stream_id: str, settings: Mapping[str, Any] | None = None) -> SnapshotView:
        """Take a snapshot of a stream. The settings are `name`, `note` and `inputs` ("keep" or "drop")."""
        return _view(SnapshotView, self._send("POST", f"{_stream(stream_id)}/snapshots", settings or {}))

    def snapshot(self, snapshot_id: str) -> SnapshotView:
        """Return one snapshot's manifest."""
        return _view(SnapshotView, self._send("GET", _snapshot(snapshot_id)))

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot permanently."""
        self._send("DELETE", _snapshot(snapshot_id))

    def download(self, snapshot_id: str) -> bytes:
        """Return a snapshot as its safetensors file."""
        return self._connection.send("GET", f"{_snapshot(snapshot_id)}/download").content

    def upload(self, content: bytes) -> SnapshotView:
        """Store a snapshot file that was downloaded from this server or from another one."""
        headers = {"Content-Type": "application/octet-stream"}
        response = self._connection.send("POST", "/v1/snapshots", content=content, headers=headers)
        return _view(SnapshotView, response)

    def events(self, since: int = 0, stream: str | None = None) -> Iterator[EventView]:
        """Yield the stored events after an id, oldest first, page by page; only one stream's if one is named."""
        pages = self._pages(EventList, "/v1/events", "since", since=since, stream=stream)
        return (event for page in pages for event in page.items)

    def newest_event(self) -> int:
        """Return the id of the newest event; 0 if there is none."""
        return _view(Overview, self._send("GET", "/v1/overview")).event or 0

    def follow(
        self, since: int | None = None, stream: str | None = None, retries: int = FOLLOW_RETRIES
    ) -> Iterator[EventView]:
        """Yield events as they happen: those after the id `since`, or those from now on if it is None.

        After a lost connection, the events missed meanwhile are sent first.
        """
        after = self.newest_event() if since is None else since
        return live.follow(self._connection, after, stream, retries)

    def feedback(self, stream_id: str, labels: Mapping[str, Sequence[str | int]]) -> FeedbackView:
        """Send the true labels of earlier requests, by request id: one class name or number for each image."""
        items = [{"request": request, "labels": list(of_images)} for request, of_images in labels.items()]
        return _view(FeedbackView, self._send("POST", f"{_stream(stream_id)}/feedback", {"items": items}))

    def history(self, stream_id: str, since: int = 0) -> HistoryView:
        """Return a stream's time series. `since` is the `next` of an earlier answer, or 0 for all points."""
        return _view(HistoryView, self._send("GET", f"{_stream(stream_id)}/history?since={since}"))

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, generation: int | None = None) -> Any:
        """Make any `/v1` call and return its JSON; None if the answer has no body."""
        response = self._send(method, path, body, generation)
        return _json(response) if response.content else None

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, generation: int | None = None
    ) -> httpx.Response:
        settings: dict[str, Any] = {} if body is None else {"json": dict(body)}
        headers = {} if generation is None else {"If-Match": f'"{generation}"'}
        return self._connection.send(method, path, headers=headers, **settings)

    def _pages(self, kind: type[Page], path: str, cursor: str, **filters: Any) -> Iterator[Page]:
        params = {name: value for name, value in filters.items() if value is not None}
        while True:
            page = _view(kind, self._connection.send("GET", path, params={**params, "limit": PAGE}))
            yield page
            if page.next is None:
                return
            params[cursor] = page.next


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise _not_json(response) from None


def _view(kind: type[AnyView], response: httpx.Response) -> AnyView:
    try:
        return kind.read(response.content)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise _not_json(response) from None
        reason = sentences(error.errors(), most=1)
        raise RefusedError(
            f"the server's answer is not one of an Acclimate server ({kind.__name__}: {reason})"
        ) from None


def _not_json(response: httpx.Response) -> RefusedError:
    return RefusedError(f"{response.url} is not an Acclimate server: its answer is not JSON")


def _dry(path: str, dry_run: bool) -> str:
    return f"{path}?dry_run=true" if dry_run else path


def _stream(stream_id: str) -> str:
    return f"/v1/streams/{quote(stream_id, safe='')}"


def _snapshot(snapshot_id: str) -> str:
    return f"/v1/snapshots/{quote(snapshot_id, safe='')}"
