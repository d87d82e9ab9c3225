"""Storage of images in a fixed number of places, which RoTTA's and NOTE's memories share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from adapters.errors import StateError
from adapters.source import as_inputs
from adapters.state import Range
from adapters.values import PartState

UNUSED = -1


@dataclass(frozen=True)
class Places(PartState):
    """Stored images and their order of arrival.

    Attributes:
        images: (N, *input_shape) uint8; 0 in a place never used.
        classes: (N,) int64, the class predicted on arrival; -1 marks an unused place.
        arrivals: (N,) int64, each image's number in the order of arrival, from 0.
        arrived: () int64, number of images that have arrived, kept or not.
    """

    images: Tensor
    classes: Tensor
    arrivals: Tensor
    arrived: Tensor

    @property
    def filled(self) -> Tensor:
        """The share () of used places."""
        return (self.classes != UNUSED).float().mean()

    ranges: ClassVar[Mapping[str, Range]] = {"classes": (UNUSED, 2**53)}

    def check(self) -> None:
        """Refuse arrival numbers that are not below `arrived`, or that two images share.

        Raises:
            StateError: If there are any.
        """
        arrivals = self.arrivals[self.classes != UNUSED]
        if len(arrivals) and int(arrivals.max()) >= int(self.arrived):
            raise StateError(
                f"the memory holds an image with arrival number {int(arrivals.max())}, "
                f"but only {int(self.arrived)} have arrived"
            )
        if len(set(arrivals.tolist())) != len(arrivals):
            raise StateError("the memory holds two images with the same arrival number")


class Entry(NamedTuple):
    """One stored image. Entries sort in read-out order: by class, then by arrival."""

    label: int
    arrival: int
    place: int


def empty(capacity: int, shape: tuple[int, ...]) -> Places:
    """Return `capacity` unused places for images of this shape.

    Example:
        >>> empty(2, (3, 8, 8)).classes
        tensor([-1, -1])
    """
    return Places(
        images=torch.zeros(capacity, *shape, dtype=torch.uint8),
        classes=torch.full((capacity,), UNUSED),
        arrivals=torch.zeros(capacity, dtype=torch.int64),
        arrived=torch.zeros((), dtype=torch.int64),
    )


def emptied(places: Places) -> Places:
    """Return the same number of places, unused."""
    return empty(len(places.classes), tuple(places.images.shape[1:]))


def entries(places: Places) -> list[Entry]:
    """Return the stored images' entries, in read-out order."""
    rows = zip(places.classes.tolist(), places.arrivals.tolist(), range(len(places.classes)), strict=True)
    return sorted(Entry(*row) for row in rows if row[0] != UNUSED)


def rows(places: Places) -> Tensor:
    """Return the indices (n,) of the used places, in read-out order."""
    return torch.tensor([entry.place for entry in entries(places)], dtype=torch.int64)


def recall(places: Places, value_range: tuple[float, float]) -> Tensor:
    """Return the stored images as inputs (n, *input_shape) within a value range, in read-out order."""
    return as_inputs(places.images[rows(places)], value_range)


def newcomers(places: Places, held: Sequence[Entry]) -> tuple[Tensor, Tensor]:
    """Return the places (n,) of entries in `held` that are new to `places`, and their rows (n,) in the new batch."""
    before = int(places.arrived)
    fresh = [(entry.place, entry.arrival - before) for entry in held if entry.arrival >= before]
    at, new_rows = torch.tensor(fresh, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return at, new_rows


def updated(places: Places, images: Tensor, held: Sequence[Entry]) -> Places:
    """Return the places after the arrival of images (n, *input_shape) uint8; the entries in `held` are stored."""
    used = torch.tensor(held, dtype=torch.int64).reshape(-1, len(Entry._fields))
    labels, arrivals, at = used.unbind(1)
    fresh_at, new_rows = newcomers(places, held)
    return Places(
        images=places.images.index_copy(0, fresh_at, images[new_rows]),
        classes=torch.full_like(places.classes, UNUSED).index_copy(0, at, labels),
        arrivals=torch.zeros_like(places.arrivals).index_copy(0, at, arrivals),
        arrived=places.arrived + len(images),
    )


def spans(arrived: int, count: int, period: int) -> Iterator[tuple[slice, bool]]:
    """Split `count` arrivals at each multiple of `period`; yield each span and whether it ends at one.

    Args:
        arrived: Number of earlier arrivals.
        count: Number of new arrivals.
        period: Arrivals between two ends.

    Example:
        >>> list(spans(60, 70, 64))
        [(slice(0, 4, None), True), (slice(4, 68, None), True), (slice(68, 70, None), False)]
    """
    start = 0
    while start < count:
        stop = min(start + period - (arrived + start) % period, count)
        yield slice(start, stop), (arrived + stop) % period == 0
        start = stop
