"""Whether neighbours in a stream share their label more often than chance: runs of predicted labels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from adapters.base import PartState

PRIOR_IMAGES = 200.0
"""A fair sample of the classes is assumed until about as many images say otherwise."""


@dataclass(frozen=True)
class RunsState(PartState):
    """What is known of a stream's predicted labels.

    Attributes:
        last: () int64 the newest label; -1 before any.
        repeats: () decayed count of labels equal to the one before.
        pairs: () decayed count of labels that had one before.
        counts: (C,) decayed counts of labels, decaying more slowly.
    """

    last: Tensor
    repeats: Tensor
    pairs: Tensor
    counts: Tensor


def init(classes: int) -> RunsState:
    """Return the state before any label."""
    zero = torch.zeros(())
    return RunsState(torch.full((), -1, dtype=torch.int64), zero, zero, torch.zeros(classes))


def update(state: RunsState, labels: Tensor, memory: float = 256.0, long_memory: float = 8192.0) -> RunsState:
    """Take in the predicted labels (N,) of a batch, in the stream's order.

    Args:
        state: Before this batch.
        labels: (N,) int64, N at least 1.
        memory: Images after which a repeat has lost two thirds of its weight.
        long_memory: The same for the label counts.

    Example:
        >>> state = update(init(10), torch.arange(10).repeat(20))
        >>> float(run_length(state)), round(float(excess(state)), 2)
        (1.0, -0.1)
    """
    before = torch.cat([state.last[None], labels[:-1]])
    paired = before >= 0
    keep, keep_long = torch.exp(torch.tensor([-len(labels) / memory, -len(labels) / long_memory]))
    return RunsState(
        last=labels[-1],
        repeats=keep * state.repeats + (paired & (labels == before)).sum(),
        pairs=keep * state.pairs + paired.sum(),
        counts=keep_long * state.counts + one_hot(labels, len(state.counts)).sum(0),
    )


def run_length(state: RunsState) -> Tensor:
    """Return the mean length () of runs of equal labels; 1 before any pair."""
    return state.pairs.clamp_min(1) / (state.pairs - state.repeats).clamp_min(1)


def excess(state: RunsState) -> Tensor:
    """Return the share of repeats () beyond chance, that is beyond sum_c p_c^2 of the stream's own class shares p."""
    classes = len(state.counts)
    shares = (state.counts + PRIOR_IMAGES / classes) / (state.counts.sum() + PRIOR_IMAGES)
    return state.repeats / state.pairs.clamp_min(1) - shares.square().sum()
