"""Autocorrelation of a stream's answers: how much more often than by chance neighbours share their label."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.state import Range
from adapters.values import PartState

LAGS = 4
"""The number of preceding images that each image is compared with."""
PRIOR_IMAGES = 10.0
"""Weight, in images, of the prior assumption of equal class shares."""
LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class CorrelationState(PartState):
    """Statistics of a stream's answers.

    Attributes:
        last: (LAGS, C) probabilities of the last answers, the newest last; zeros before any.
        seen: () int64 number of images so far.
        products: () decayed sum of scalar products of each answer with the LAGS answers before it.
        pairs: () decayed count of these products.
        squares: () decayed sum of scalar products of answers with themselves.
        shares: (C,) decayed sums of the probabilities.
    """

    last: Tensor
    seen: Tensor
    products: Tensor
    pairs: Tensor
    squares: Tensor
    shares: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"pairs": (0.0, math.inf)}


def init(classes: int) -> CorrelationState:
    """Return the initial state."""
    zero = torch.zeros(())
    last = torch.zeros(LAGS, classes)
    return CorrelationState(last, torch.zeros((), dtype=torch.int64), zero, zero, zero, torch.zeros(classes))


def update(state: CorrelationState, probabilities: Tensor, memory: float = 256.0) -> CorrelationState:
    """Update the state with the probabilities (N, C) of a request's answers, in the stream's order.

    Args:
        state: The state before this request.
        probabilities: (N, C), N at least 1; rows that are not finite count as equal shares.
        memory: Images after which an answer has lost two thirds of its weight.

    Example:
        >>> fair, runs = torch.eye(10).repeat(20, 1), torch.eye(10).repeat_interleave(20, 0)
        >>> round(float(correlation(update(init(10), fair))), 1), round(float(correlation(update(init(10), runs))), 1)
        (-0.1, 0.9)
    """
    count, classes = probabilities.shape
    sound = torch.isfinite(probabilities).all(1, keepdim=True)
    answers = torch.where(sound, probabilities, 1 / classes).to(state.shares)
    chain = torch.cat([state.last, answers])
    products, pairs = torch.zeros(()), torch.zeros(())
    for lag in range(1, LAGS + 1):
        products = products + (answers * chain[LAGS - lag : LAGS - lag + count]).sum()
        pairs = pairs + (count - (lag - state.seen).clamp_min(0)).clamp_min(0)
    keep = math.exp(-count / memory)
    return CorrelationState(
        last=chain[-LAGS:],
        seen=state.seen + count,
        products=keep * state.products + products,
        pairs=keep * state.pairs + pairs,
        squares=keep * state.squares + answers.square().sum(),
        shares=keep * state.shares + answers.sum(0),
    )


def correlation(state: CorrelationState) -> Tensor:
    """Return the mean correlation () of answers with the preceding ones, at most 1; 0 means chance, or no pair yet.

    Chance is |q|^2 for the stream's own class shares q: a stream of few classes is not correlated for that reason.
    Uncertain answers lower both sides of the ratio, so that it does not fall when the model often errs.
    """
    images = state.shares.sum()
    shares = (state.shares + PRIOR_IMAGES / len(state.shares)) / (images + PRIOR_IMAGES)
    chance = shares.square().sum()
    spread = (state.squares / images.clamp_min(1) - chance).clamp_min(LEAST_SPREAD)
    paired = (state.products / state.pairs.clamp_min(1) - chance) / spread
    return torch.where(state.pairs > 0, paired.clamp(-1, 1), 0.0)
