"""The mean length of runs of equal predicted labels in a stream."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.state import Range
from adapters.values import PartState


@dataclass(frozen=True)
class RunsState(PartState):
    """Statistics of a stream's predicted labels.

    Attributes:
        last: () int64 the newest label; -1 before any.
        repeats: () decayed count of labels equal to the preceding one.
        pairs: () decayed count of labels with a preceding one.
    """

    last: Tensor
    repeats: Tensor
    pairs: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"last": (-1, 2**53), "repeats": (0.0, math.inf), "pairs": (0.0, math.inf)}


def init() -> RunsState:
    """Return the initial state."""
    return RunsState(torch.full((), -1, dtype=torch.int64), torch.zeros(()), torch.zeros(()))


def update(state: RunsState, labels: Tensor, memory: float = 256.0) -> RunsState:
    """Update the state with the predicted labels (N,) of a batch, in the stream's order.

    Args:
        state: The state before this batch.
        labels: (N,) int64, N at least 1.
        memory: Images after which a repeat has lost two thirds of its weight.

    Example:
        >>> float(run_length(update(init(), torch.arange(10).repeat(20))))
        1.0
    """
    before = torch.cat([state.last[None], labels[:-1]])
    paired = before >= 0
    keep = torch.exp(torch.tensor(-len(labels) / memory))
    return RunsState(
        last=labels[-1],
        repeats=keep * state.repeats + (paired & (labels == before)).sum(),
        pairs=keep * state.pairs + paired.sum(),
    )


def run_length(state: RunsState) -> Tensor:
    """Return the mean length () of runs of equal labels; 1 before any pair."""
    return state.pairs.clamp_min(1) / (state.pairs - state.repeats).clamp_min(1)
