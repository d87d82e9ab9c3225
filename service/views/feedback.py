"""The results of late labels, as the API answers them."""

from service.views.view import View


class FeedbackView(View):
    """The results of all late labels so far."""

    accepted: int
    """Images that got a label from this call."""
    unknown: list[str]
    """Requests that are unknown, too old, or labelled already."""
    images: int
    accuracy: float | None
    recent_accuracy: float | None
    """Accuracy with a decaying weight: an image fades over 500 later ones."""
    source_accuracy: float | None
    """Accuracy of the source model on the requests that it was run on."""
    estimates: dict[str, float]
    """Accuracy that was estimated for the same images, by estimator."""
    errors: dict[str, float]
    """Each estimate minus the true accuracy."""
