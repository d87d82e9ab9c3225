"""A thin, typed client of a running server: V2's binary form for inference, `/v1` for streams and snapshots."""

from service.client.client import Client
from service.client.errors import RefusedError, UnreachableError
from service.client.inference import Answer
from service.client.views import (
    EventView,
    FeedbackView,
    HistoryView,
    Restored,
    ShadowView,
    SnapshotView,
    StreamRow,
    StreamView,
)

__all__ = [
    "Answer",
    "Client",
    "EventView",
    "FeedbackView",
    "HistoryView",
    "RefusedError",
    "Restored",
    "ShadowView",
    "SnapshotView",
    "StreamRow",
    "StreamView",
    "UnreachableError",
]
