"""A typed client of a running server: inference by V2's binary protocol, streams and snapshots by `/v1`."""

from service.client.client import Client
from service.client.errors import RefusedError, UnreachableError
from service.client.inference import Answer
from service.client.views import (
    AdapterView,
    EventView,
    FeedbackView,
    HistoryView,
    ModelView,
    Restored,
    ShadowView,
    SnapshotView,
    StreamRow,
    StreamView,
)

__all__ = [
    "AdapterView",
    "Answer",
    "Client",
    "EventView",
    "FeedbackView",
    "HistoryView",
    "ModelView",
    "RefusedError",
    "Restored",
    "ShadowView",
    "SnapshotView",
    "StreamRow",
    "StreamView",
    "UnreachableError",
]
