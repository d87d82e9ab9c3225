"""RoTTA's memory (CSTU): equal room for every class, and in it what is recent and sure."""

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
    """Remembered images, and the entropy (N,) in nats with which each was predicted on arrival."""

    places: Places
    entropies: Tensor


@dataclass(frozen=True)
class Scoring:
    """What makes an image the one to go: the weights of its age and its entropy, among a number of classes."""

    classes: int
    age_weight: float = 1.0
    entropy_weight: float = 1.0

    def score(self, age: float, entropy: float) -> float:
        """Return an image's score in double precision; age in capacities, entropy in nats.

        Example:
            >>> Scoring(10).score(0.0, math.log(10))
            1.5
        """
        certain = math.log(max(self.classes, 2))  # one class has no entropy to speak of
        return self.age_weight / (1 + math.exp(-age)) + self.entropy_weight * entropy / certain


def empty(capacity: int, shape: tuple[int, ...], dtype: torch.dtype) -> CategoryMemory:
    """Return a memory for a number of images of a shape; entropies are of the network's dtype."""
    return CategoryMemory(stored.empty(capacity, shape), torch.zeros(capacity, dtype=dtype))


def emptied(memory: CategoryMemory) -> CategoryMemory:
    """Return the memory as it was before any image came."""
    return CategoryMemory(stored.emptied(memory.places), torch.zeros_like(memory.entropies))


def ages(memory: CategoryMemory) -> Tensor:
    """Return how many arrivals ago (n,) the remembered images came, in read-out order; the last one's age is 1."""
    places = memory.places
    return places.arrived - places.arrivals[stored.rows(places)]


def timeliness(memory: CategoryMemory) -> Tensor:
    """Return the weights (n,) of the remembered images in the loss, in read-out order: e^-a / (1 + e^-a) of the age.

    The age a counts in capacities, so that a weight is below 1/2.
    """
    return torch.sigmoid(-ages(memory) / len(memory.entropies))


def insert(
    memory: CategoryMemory, images: Tensor, labels: Tensor, entropies: Tensor, scoring: Scoring
) -> CategoryMemory:
    """Offer images to the memory one by one; a class never holds more than ceil(N / classes).

    A class with less than its share competes with the largest classes, and takes a free place if there is one; else
    with its own members, even where there are free places. The image of the highest score goes, the last of equals; if
    that is the new image's, all stay.

    Args:
        memory: What is remembered, N images at most.
        images: (n, *input_shape) uint8.
        labels: (n,) int64, predicted classes.
        entropies: (n,) finite, in nats.
        scoring: Who goes.
    """
    places, capacity = memory.places, len(memory.entropies)
    before, held, known = int(places.arrived), stored.entries(places), memory.entropies.tolist()
    entropy_of = {entry.arrival: known[entry.place] for entry in held}
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
    at, came = stored.newcomers(places, held)
    return CategoryMemory(stored.settled(places, images, held), memory.entropies.index_copy(0, at, entropies[came]))


def _rivals(held: list[Entry], label: int, capacity: int, classes: int) -> list[Entry]:
    """Return, in read-out order, those of whom one must go for an image of a class; none if it finds a free place."""
    sizes = Counter(entry.label for entry in held)
    if sizes[label] >= capacity / classes:
        return [entry for entry in held if entry.label == label]
    if len(held) < capacity:
        return []
    largest = max(sizes.values())
    return [entry for entry in held if sizes[entry.label] == largest]
