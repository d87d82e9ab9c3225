"""A typed client of a running server: inference by V2's binary protocol, streams and snapshots by `/v1`."""

from service.client.client import Client
from service.client.errors import RefusedError, UnreachableError
from service.client.inference import Answer
from service.views.events import EventView
from service.views.feedback import FeedbackView
from service.views.history import HistoryView
from service.views.models import AdapterPart, ModelView
from service.views.overview import StreamRow
from service.views.snapshots import SnapshotView
from service.views.streams import Restored, ShadowView, StreamView

__all__ = [
    "AdapterPart",
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
