"""The moving mean of a signal, weighted by images; values that are not finite are ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.state import Range
from adapters.values import PartState


@dataclass(frozen=True)
class MeanState(PartState):
    """A moving mean () of a signal, and () its weight, from 0 (no values yet) to 1."""

    mean: Tensor
    weight: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"weight": (0.0, 1.01)}


def init() -> MeanState:
    """Return the initial state."""
    return MeanState(torch.zeros(()), torch.zeros(()))


def update(state: MeanState, value: Tensor, images: int, memory: float = 128.0) -> MeanState:
    """Move the mean towards a batch's value, by its number of images; a value that is not finite changes nothing.

    Example:
        >>> state = update(init(), torch.tensor(2.0), images=64)
        >>> state.mean, update(state, torch.tensor(torch.nan), images=64).mean
        (tensor(2.), tensor(2.))
    """
    keep = torch.exp(torch.tensor(-images / memory))
    sound = torch.isfinite(value)
    weight = keep * state.weight + (1 - keep)
    moved = state.mean + (1 - keep) / weight * (torch.where(sound, value, state.mean).to(state.mean) - state.mean)
    return MeanState(torch.where(sound, moved, state.mean), torch.where(sound, weight, state.weight))
