"""Moving moments of a layer's inputs: they average enough images to compare with the source, even for small batches."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.state import Range
from adapters.values import Moments, PartState


@dataclass(frozen=True)
class MomentsState(PartState):
    """Moving moments per channel, and () their weight, from 0 (no batches yet) to 1."""

    moments: Moments
    weight: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"weight": (0.0, 1.01)}


def init(like: Moments) -> MomentsState:
    """Return the initial state for as many channels as `like` has."""
    return MomentsState(Moments(torch.zeros_like(like.mean), torch.ones_like(like.var)), torch.zeros(()))


def update(state: MomentsState, batch: Moments, images: int, memory: int) -> MomentsState:
    """Update the state with a batch's moments; a batch `memory` images ago has lost two thirds of its weight.

    The result is the moments of all weighted images together: the spread between batches counts as variance. A batch
    whose moments are not finite changes nothing.

    Example:
        >>> one = Moments(torch.tensor([1.0]), torch.tensor([0.0]))
        >>> other = Moments(torch.tensor([3.0]), torch.tensor([0.0]))
        >>> update(update(init(one), one, 1, memory=10**6), other, 1, memory=10**6).moments.var
        tensor([1.])
    """
    keep = math.exp(-images / memory)
    weight = keep * state.weight + (1 - keep)
    share = (1 - keep) / weight
    old = state.moments
    between = share * (1 - share) * (batch.mean - old.mean).square()
    moved = Moments(old.mean.lerp(batch.mean, share), old.var.lerp(batch.var, share) + between)
    sound = torch.isfinite(batch.mean).all() & torch.isfinite(batch.var).all()
    return MomentsState(
        Moments(torch.where(sound, moved.mean, old.mean), torch.where(sound, moved.var, old.var)),
        torch.where(sound, weight, state.weight),
    )
