"""Late labels: the answers to earlier requests, and their accuracy once true labels arrive."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.errors import UnfitError

Labels = npt.NDArray[np.int64]
MEMORY = 500
"""Time constant of the recent accuracy, in images."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one request.

    Attributes:
        time: Its time on the monotonic clock.
        labels: (N,) the answered classes.
        source: (n,) the source model's classes for the first n images, n at most N; None if it did not look.
        estimates: The estimated accuracy, by estimator.
    """

    time: float
    labels: npt.NDArray[np.int32]
    source: npt.NDArray[np.int32] | None
    estimates: Mapping[str, float]


@dataclass(slots=True)
class Tally:
    """The share of right images: of all, and as a recent average that decays over MEMORY images."""

    images: int = 0
    right: float = 0.0
    weight: float = 0.0
    recent: float = 0.0

    def add(self, right: float, images: int) -> None:
        """Add `images` images, `right` of them right."""
        self.images += images
        self.right += right
        keep = float(np.exp(-images / MEMORY))
        self.weight = keep * self.weight + (1 - keep)
        self.recent += (1 - keep) / self.weight * (right / images - self.recent)

    @property
    def accuracy(self) -> float | None:
        """Share of all images that were right; None before the first."""
        return self.right / self.images if self.images else None


@dataclass(slots=True)
class Feedback:
    """The answers of one stream that may still get labels, and the accuracy of those that did.

    Attributes:
        max_images: Most images whose answers are kept.
        max_seconds: How long answers are kept.
        true: Accuracy of the stream's answers.
        source: Accuracy of the source model's answers, for images that it looked at.
        estimated: The accuracy estimated for the labelled images, by estimator, to compare with `true`.
    """

    max_images: int
    max_seconds: float
    true: Tally = field(default_factory=Tally)
    source: Tally = field(default_factory=Tally)
    estimated: dict[str, Tally] = field(default_factory=dict)
    _waiting: OrderedDict[str, Answered] = field(default_factory=OrderedDict)
    _images: int = 0

    def remember(self, request_id: str, answered: Answered) -> None:
        """Keep an answer, and drop the oldest answers if they exceed `max_images` or `max_seconds`."""
        self._forget(request_id)
        self._waiting[request_id] = answered
        self._images += len(answered.labels)
        self._forget_old()

    def check(self, labels: Mapping[str, Labels]) -> None:
        """Check the number of labels of each known request.

        Raises:
            UnfitError: If a known request's label count differs from its image count.
        """
        self._forget_old()
        for request_id, true in labels.items():
            answered = self._waiting.get(request_id)
            if answered is not None and len(true) != len(answered.labels):
                images = len(answered.labels)
                raise UnfitError(
                    f"request {request_id!r} has {len(true)} labels, expected {images}, one for each image"
                )

    def label(self, request_id: str, labels: Labels) -> bool:
        """Add the true labels (N,) of a request; False if the request is unknown or already labelled."""
        answered = self._waiting.get(request_id)
        if answered is None:
            return False
        images = len(answered.labels)
        self._forget(request_id)
        self.true.add(float((answered.labels == labels).sum()), images)
        if answered.source is not None:
            seen = len(answered.source)
            self.source.add(float((answered.source == labels[:seen]).sum()), seen)
        for name, estimate in answered.estimates.items():
            self.estimated.setdefault(name, Tally()).add(estimate * images, images)
        return True

    def _forget_old(self) -> None:
        oldest = time.monotonic() - self.max_seconds
        while self._waiting and (self._images > self.max_images or next(iter(self._waiting.values())).time < oldest):
            self._forget(next(iter(self._waiting)))

    def _forget(self, request_id: str) -> None:
        answered = self._waiting.pop(request_id, None)
        self._images -= 0 if answered is None else len(answered.labels)


def class_numbers(given: Sequence[str | int], numbers: Mapping[str, int]) -> Labels:
    """Return labels, each a class name or number, as numbers.

    Args:
        given: The labels.
        numbers: The number of each class name.

    Raises:
        UnfitError: If a label is no class.
    """
    found = [numbers.get(label, -1) if isinstance(label, str) else label for label in given]
    for label, number in zip(given, found, strict=True):
        if not 0 <= number < len(numbers):
            raise UnfitError(
                f"{label!r} is no class; expected a name, as {next(iter(numbers))!r}, or 0 to {len(numbers) - 1}"
            )
    return np.asarray(found, dtype=np.int64)
