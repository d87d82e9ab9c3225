"""NOTE's memory (PBRS): a reservoir in which the predicted classes are balanced."""

from bisect import insort
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.functional import places as stored
from adapters.functional.places import Entry, Places
from adapters.values import PartState

DRAWS = 3
"""Numbers drawn for each arrival: which of the largest classes gives way, which of its images, and whether it does."""


@dataclass(frozen=True)
class Reservoir(PartState):
    """Remembered images, and how many (classes,) int64 were predicted as each class since the start."""

    places: Places
    counts: Tensor


def empty(capacity: int, shape: tuple[int, ...], classes: int) -> Reservoir:
    """Return a reservoir for a number of images of a shape."""
    return Reservoir(stored.empty(capacity, shape), torch.zeros(classes, dtype=torch.int64))


def emptied(reservoir: Reservoir) -> Reservoir:
    """Return the reservoir as it was before any image came."""
    return Reservoir(stored.emptied(reservoir.places), torch.zeros_like(reservoir.counts))


def insert(reservoir: Reservoir, images: Tensor, labels: Tensor, draws: Tensor) -> Reservoir:
    """Offer images to the reservoir one by one; once full it stays full (NOTE, algorithm 1).

    An image of a class that is not among the largest takes the place of one that is. An image of a largest class takes
    the place of one of its own with probability stored / arrived, so that every arrival of the class is as likely to
    be remembered.

    Args:
        reservoir: What is remembered, N images at most.
        images: (n, *input_shape) uint8.
        labels: (n,) int64, predicted classes.
        draws: (n, 3) uniform on [0, 1), see `DRAWS`.
    """
    places, counts = reservoir.places, reservoir.counts.tolist()
    capacity, held = len(places.classes), stored.entries(places)
    arrivals = enumerate(zip(labels.tolist(), draws.tolist(), strict=True), start=int(places.arrived))
    for now, (label, (u_class, u_image, u_keep)) in arrivals:
        counts[label] += 1
        new = Entry(label, now, len(held))
        if len(held) == capacity:
            rivals = _rivals(held, label, counts[label], u_class, u_keep)
            if not rivals:
                continue
            victim = rivals[_index(u_image, len(rivals))]
            held.remove(victim)
            new = new._replace(place=victim.place)
        insort(held, new)
    return Reservoir(stored.settled(places, images, held), torch.tensor(counts, dtype=torch.int64))


def _rivals(held: list[Entry], label: int, arrived: int, u_class: float, u_keep: float) -> list[Entry]:
    """Return, in read-out order, those of whom one must go for an image of a class; none if the image is not kept."""
    sizes = Counter(entry.label for entry in held)
    most = max(sizes.values())
    largest = sorted(each for each, size in sizes.items() if size == most)
    if label not in largest:
        label = largest[_index(u_class, len(largest))]
    elif u_keep > sizes[label] / arrived:
        return []
    return [entry for entry in held if entry.label == label]


def _index(u: float, count: int) -> int:
    """Return which of `count` things a number from [0, 1) chooses."""
    return min(int(u * count), count - 1)
