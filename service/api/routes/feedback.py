"""/v1/streams/{id}/feedback: late labels for earlier requests."""

from typing import Annotated

from fastapi import APIRouter, Path

from service.api.bodies import FeedbackGiven
from service.api.problems import responses
from service.errors import UnfitError
from service.monitoring.late_labels import Feedback
from service.serving.controlplane import Controlplane
from service.views.feedback import FeedbackView

StreamId = Annotated[str, Path()]


def router(control: Controlplane) -> APIRouter:
    """Return the feedback routes."""
    routes = APIRouter(prefix="/v1/streams", tags=["control plane"])

    @routes.post("/{stream_id}/feedback", responses=responses(400, 404, 413, 415, 422, 429, 503, 504))
    async def give_feedback(stream_id: StreamId, body: FeedbackGiven) -> FeedbackView:
        """Give the true labels of earlier requests, by class name or number. The answer lists unknown requests."""
        labels = {item.request: list(item.labels) for item in body.items}
        if len(labels) < len(body.items):
            raise UnfitError("a request is given twice; expected the labels of each once")
        feedback, images, unknown = await control.label(stream_id, labels)
        return feedback_view(feedback, images, unknown)

    return routes


def feedback_view(feedback: Feedback, accepted: int, unknown: list[str]) -> FeedbackView:
    """Return the accuracy by labels, and the accuracy that was estimated for the same images."""
    estimates = {name: tally.accuracy for name, tally in feedback.estimated.items() if tally.accuracy is not None}
    true = feedback.true.accuracy
    return FeedbackView(
        accepted=accepted,
        unknown=unknown,
        images=feedback.true.images,
        accuracy=true,
        recent_accuracy=feedback.true.recent if feedback.true.images else None,
        source_accuracy=feedback.source.accuracy,
        estimates=estimates,
        errors={name: estimate - true for name, estimate in estimates.items()} if true is not None else {},
    )
