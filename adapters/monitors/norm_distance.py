"""How far a batch's norm statistics are from the source's: the drift signal, and its moving mean."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Moments, PartState


@dataclass(frozen=True)
class DistanceState(PartState):
    """Moving mean () of the distance, () the weight that it rests on (0 before any batch), and () the newest value."""

    mean: Tensor
    weight: Tensor
    last: Tensor


def distance(batch: Moments, source: Moments, eps: float = 1e-5) -> Tensor:
    """Return the mean over channels of ((mu_b - mu_s)^2 + (sigma_b - sigma_s)^2) / (sigma_s^2 + eps).

    Finite at one image. The square of a 2-Wasserstein distance between Gaussians, in source variances.

    Example:
        >>> source = Moments(torch.zeros(2), torch.ones(2))
        >>> distance(Moments(torch.ones(2), torch.ones(2)), source)
        tensor(1.0000)
    """
    spread = batch.var.clamp_min(0).sqrt() - source.var.sqrt()
    return (((batch.mean - source.mean).square() + spread.square()) / (source.var + eps)).mean().detach()


def init() -> DistanceState:
    """Return the state before any batch."""
    return DistanceState(torch.zeros(()), torch.zeros(()), torch.zeros(()))


def update(state: DistanceState, value: Tensor, images: int, memory: float = 64.0) -> DistanceState:
    """Move the mean towards a batch's distance; a value that is not finite changes nothing.

    Args:
        state: Before this batch.
        value: () the batch's distance.
        images: How many images it was measured on; single images count for little.
        memory: After about this many images the past has lost two thirds of its weight.

    Example:
        >>> state = update(init(), torch.tensor(2.0), images=64)
        >>> state.mean, update(state, torch.tensor(torch.nan), images=64).mean
        (tensor(2.), tensor(2.))
    """
    keep = torch.exp(torch.tensor(-images / memory))
    sound = torch.isfinite(value)
    weight = keep * state.weight + (1 - keep)
    share = (1 - keep) / weight
    mean = state.mean + share * (torch.where(sound, value, state.mean) - state.mean)
    return DistanceState(
        mean=torch.where(sound, mean, state.mean),
        weight=torch.where(sound, weight, state.weight),
        last=torch.where(sound, value, state.last),
    )
