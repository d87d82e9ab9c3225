"""The distribution of a stream's answer entropies: decayed counts in equal bins from 0 to ln(classes)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from adapters.functional.answers import entropies, sound_rows
from adapters.state import Range
from adapters.values import PartState

BINS = 20


@dataclass(frozen=True)
class BinsState(PartState):
    """Decayed counts (BINS,) of images by entropy."""

    counts: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"counts": (0.0, math.inf)}


def init() -> BinsState:
    """Return the initial state."""
    return BinsState(torch.zeros(BINS))


def update(state: BinsState, probabilities: Tensor, memory: float = 1024.0) -> BinsState:
    """Count the entropies of a request's answers, probabilities (N, C); rows that are not finite change nothing.

    Example:
        >>> update(init(), torch.tensor([[0.5, 0.5], [1.0, 0.0]])).counts[[0, -1]]
        tensor([1., 1.])
    """
    rows = sound_rows(probabilities)
    if not len(rows):
        return state
    share = entropies(rows) / math.log(max(rows.shape[1], 2))
    numbers = np.clip((BINS * share).astype(np.intp), 0, BINS - 1)
    fresh = np.bincount(numbers, minlength=BINS).astype(np.float32)
    return BinsState(torch.from_numpy(math.exp(-len(rows) / memory) * state.counts.numpy() + fresh))


def shares(state: BinsState) -> Tensor:
    """Return the share (BINS,) of the images in each bin; zeros before any image."""
    return state.counts / state.counts.sum().clamp_min(1e-12)
