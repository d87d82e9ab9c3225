"""RoTTA's memory (CSTU): it gives every class equal room, and keeps recent images with certain predictions."""

import math
from bisect import insort
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.functional import places as stored
from adapters.functional.places import Entry, Places
from adapters.values import PartState


@dataclass(frozen=True)
class CategoryMemory(PartState):
    """Stored images, and the entropy (N,) of each image's prediction on arrival, in nats."""

    places: Places
    entropies: Tensor


@dataclass(frozen=True)
class Scoring:
    """The removal score: the weights of an image's age and of its entropy, and the number of classes."""

    classes: int
    age_weight: float = 1.0
    entropy_weight: float = 1.0

    def score(self, age: float, entropy: float) -> float:
        """Return an image's score; the age is in units of the capacity, the entropy in nats.

        Example:
            >>> Scoring(10).score(0.0, math.log(10))
            1.5
        """
        maximum = math.log(max(self.classes, 2))  # not 0 for a single class
        return self.age_weight / (1 + math.exp(-age)) + self.entropy_weight * entropy / maximum


def empty(capacity: int, shape: tuple[int, ...], dtype: torch.dtype) -> CategoryMemory:
    """Return an empty memory for `capacity` images; entropies have the network's dtype."""
    return CategoryMemory(stored.empty(capacity, shape), torch.zeros(capacity, dtype=dtype))


def emptied(memory: CategoryMemory) -> CategoryMemory:
    """Return an empty memory of the same capacity."""
    return CategoryMemory(stored.emptied(memory.places), torch.zeros_like(memory.entropies))


def ages(memory: CategoryMemory) -> Tensor:
    """Return the ages (n,) of the stored images in arrivals, in read-out order; the last arrival's age is 1."""
    places = memory.places
    return places.arrived - places.arrivals[stored.rows(places)]


def timeliness(memory: CategoryMemory) -> Tensor:
    """Return the loss weights (n,) of the stored images, in read-out order: e^-a / (1 + e^-a) for age a.

    The age is in units of the capacity; every weight is below 1/2.
    """
    return torch.sigmoid(-ages(memory) / len(memory.entropies))


def insert(
    memory: CategoryMemory, images: Tensor, labels: Tensor, entropies: Tensor, scoring: Scoring
) -> CategoryMemory:
    """Offer images to the memory one by one; a class never holds more than ceil(N / classes).

    An image of a class with less than its share takes a free place. If there is none, it competes with the images of
    the largest classes. An image of a class with its full share competes with that class, even if there are free
    places. The competing image with the highest score is removed, the last one among equals; the new image is dropped
    if no score exceeds its own.

    Args:
        memory: The memory, of capacity N.
        images: (n, *input_shape) uint8.
        labels: (n,) int64, predicted classes.
        entropies: (n,) finite, in nats.
        scoring: The removal score.
    """
    places, capacity = memory.places, len(memory.entropies)
    before, held, old_entropies = int(places.arrived), stored.entries(places), memory.entropies.tolist()
    entropy_of = {entry.arrival: old_entropies[entry.place] for entry in held}
    entropy_of |= dict(enumerate(entropies.tolist(), start=before))
    for now, label in enumerate(labels.tolist(), start=before):
        new = Entry(label, now, len(held))
        rivals = _rivals(held, label, capacity, scoring.classes)
        score = {
            entry: scoring.score((now - entry.arrival) / capacity, entropy_of[entry.arrival])
            for entry in (*rivals, new)
        }
        if rivals:
            victim = max(reversed(rivals), key=score.__getitem__)
            if score[victim] <= score[new]:
                continue
            held.remove(victim)
            new = new._replace(place=victim.place)
        insort(held, new)
    at, new_rows = stored.newcomers(places, held)
    return CategoryMemory(stored.updated(places, images, held), memory.entropies.index_copy(0, at, entropies[new_rows]))


def _rivals(held: list[Entry], label: int, capacity: int, classes: int) -> list[Entry]:
    """Return the images that a new image of a class competes with, in read-out order; none if it gets a free place."""
    sizes = Counter(entry.label for entry in held)
    if sizes[label] >= capacity / classes:
        return [entry for entry in held if entry.label == label]
    if len(held) < capacity:
        return []
    largest = max(sizes.values())
    return [entry for entry in held if sizes[entry.label] == largest]
