"""The distribution of a stream's answer entropies: decayed counts in equal bins from 0 to ln(classes)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import PartState
from adapters.functional.entropy import entropy_of_probabilities

BINS = 20


@dataclass(frozen=True)
class BinsState(PartState):
    """Decayed counts (BINS,) of images by entropy."""

    counts: Tensor


def init() -> BinsState:
    """Return the state before any answer."""
    return BinsState(torch.zeros(BINS))


def update(state: BinsState, probabilities: Tensor, memory: float = 1024.0) -> BinsState:
    """Take in the probabilities (N, C) of a request's answers; rows that are not finite change nothing.

    Example:
        >>> update(init(), torch.tensor([[0.5, 0.5], [1.0, 0.0]])).counts[[0, -1]]
        tensor([1., 1.])
    """
    sound = probabilities[torch.isfinite(probabilities).all(1)]
    share = entropy_of_probabilities(sound) / math.log(max(probabilities.shape[1], 2))
    fresh = torch.histc(share.clamp(0, 1).float(), BINS, 0.0, 1.0)
    return BinsState(math.exp(-len(sound) / memory) * state.counts + fresh)


def shares(state: BinsState) -> Tensor:
    """Return the share (BINS,) of the images in each bin; zeros before any."""
    return state.counts / state.counts.sum().clamp_min(1e-12)
