"""Late labels: what was answered to earlier requests, and how right it was once somebody knows."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.errors import UnfitError

Labels = npt.NDArray[np.int64]
MEMORY = 500
"""Images that the true accuracy fades over."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered to one request.

    Attributes:
        time: When, on the monotonic clock.
        labels: (N,) the answered classes.
        source: Those of the source model, where it looked: (N,), or of the first images alone.
        estimates: What accuracy was estimated to be, by estimator.
    """

    time: float
    labels: npt.NDArray[np.int32]
    source: npt.NDArray[np.int32] | None
    estimates: Mapping[str, float]


@dataclass(slots=True)
class Tally:
    """A share that is known of some images: all in all, and of late."""

    images: int = 0
    right: float = 0.0
    weight: float = 0.0
    recent: float = 0.0

    def add(self, right: float, images: int) -> None:
        """Take in how many of some images were right."""
        self.images += images
        self.right += right
        keep = float(np.exp(-images / MEMORY))
        self.weight = keep * self.weight + (1 - keep)
        self.recent += (1 - keep) / self.weight * (right / images - self.recent)

    @property
    def accuracy(self) -> float | None:
        """Share of all images that were right; None before any."""
        return self.right / self.images if self.images else None


@dataclass(slots=True)
class Feedback:
    """The answers of one stream that may still get labels, and what those that did say.

    Attributes:
        true: Of the stream's answers.
        source: Of the source model's, where it looked.
        estimated: What was estimated for the same images, by estimator, to be set beside `true`.
    """

    max_images: int
    max_seconds: float
    true: Tally = field(default_factory=Tally)
    source: Tally = field(default_factory=Tally)
    estimated: dict[str, Tally] = field(default_factory=dict)
    _waiting: OrderedDict[str, Answered] = field(default_factory=OrderedDict)
    _images: int = 0

    def remember(self, request_id: str, answered: Answered) -> None:
        """Keep what was answered, and forget what is too old or too much."""
        self._forget(request_id)
        self._waiting[request_id] = answered
        self._images += len(answered.labels)
        self._forget_old()

    def check(self, labels: Mapping[str, Labels]) -> None:
        """Refuse labels of which a request that is known has more or fewer than images.

        Raises:
            UnfitError: With the request.
        """
        self._forget_old()
        for request_id, given in labels.items():
            answered = self._waiting.get(request_id)
            if answered is not None and len(given) != len(answered.labels):
                images = len(answered.labels)
                raise UnfitError(
                    f"request {request_id!r} has {len(given)} labels, expected {images}, one for each image"
                )

    def label(self, request_id: str, labels: Labels) -> bool:
        """Take in the true labels (N,) of a request; False if it is not known, or was labelled before."""
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
