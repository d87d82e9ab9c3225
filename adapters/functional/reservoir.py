"""NOTE's memory (PBRS): a reservoir of images that is balanced over predicted classes."""

from bisect import insort
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.functional import places as stored
from adapters.functional.places import Entry, Places
from adapters.values import PartState

DRAWS = 3
"""Random numbers per arrival: they select one of the largest classes, one of its images, and whether to replace it."""


@dataclass(frozen=True)
class Reservoir(PartState):
    """Stored images, and the number (classes,) int64 of images predicted as each class since the start."""

    places: Places
    counts: Tensor


def empty(capacity: int, shape: tuple[int, ...], classes: int) -> Reservoir:
    """Return an empty reservoir for `capacity` images of this shape."""
    return Reservoir(stored.empty(capacity, shape), torch.zeros(classes, dtype=torch.int64))


def emptied(reservoir: Reservoir) -> Reservoir:
    """Return an empty reservoir of the same capacity."""
    return Reservoir(stored.emptied(reservoir.places), torch.zeros_like(reservoir.counts))


def insert(reservoir: Reservoir, images: Tensor, labels: Tensor, draws: Tensor) -> Reservoir:
    """Offer images to the reservoir one by one; once full it stays full (NOTE, algorithm 1).

    An image of a class that is not among the largest replaces an image of a largest class. An image of a largest class
    replaces one of its own class with probability stored / arrived, so that all arrivals of a class are equally likely
    to be stored.

    Args:
        reservoir: The reservoir, of capacity N.
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
    return Reservoir(stored.updated(places, images, held), torch.tensor(counts, dtype=torch.int64))


def _rivals(held: list[Entry], label: int, arrived: int, u_class: float, u_keep: float) -> list[Entry]:
    """Return the candidates for replacement by a new image, in read-out order; none if the new image is not kept."""
    sizes = Counter(entry.label for entry in held)
    most = max(sizes.values())
    largest = sorted(each for each, size in sizes.items() if size == most)
    if label not in largest:
        label = largest[_index(u_class, len(largest))]
    elif u_keep > sizes[label] / arrived:
        return []
    return [entry for entry in held if entry.label == label]


def _index(u: float, count: int) -> int:
    """Return the index below `count` that a random number in [0, 1) selects."""
    return min(int(u * count), count - 1)
