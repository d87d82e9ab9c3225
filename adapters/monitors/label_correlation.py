"""Whether neighbours in a stream share their label more often than chance: autocorrelation of the answers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.state import Range
from adapters.values import PartState

LAGS = 4
"""Each image is set beside as many before it."""
PRIOR_IMAGES = 10.0
"""Of equal class shares, which are assumed until about as many images say otherwise."""
LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class CorrelationState(PartState):
    """What is known of a stream's answers.

    Attributes:
        last: (LAGS, C) the newest answers' probabilities, the newest last; zeros before any.
        seen: () int64 images so far.
        products: () decayed sum of scalar products of answers with those up to LAGS before.
        pairs: () decayed count of these.
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
    """Return the state before any answer."""
    zero = torch.zeros(())
    last = torch.zeros(LAGS, classes)
    return CorrelationState(last, torch.zeros((), dtype=torch.int64), zero, zero, zero, torch.zeros(classes))


def update(state: CorrelationState, probabilities: Tensor, memory: float = 256.0) -> CorrelationState:
    """Take in the probabilities (N, C) of a request's answers, in the stream's order.

    Args:
        state: Before this request.
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
    """Return the mean correlation () of answers with those shortly before, up to 1: 0 is chance, and before any pair.

    Chance is |q|^2 for the stream's own class shares q: a stream that holds few classes by nature is not correlated.
    Uncertain answers count for less on both sides of the ratio, so that it does not sink where the model errs often.
    """
    images = state.shares.sum()
    shares = (state.shares + PRIOR_IMAGES / len(state.shares)) / (images + PRIOR_IMAGES)
    chance = shares.square().sum()
    spread = (state.squares / images.clamp_min(1) - chance).clamp_min(LEAST_SPREAD)
    paired = (state.products / state.pairs.clamp_min(1) - chance) / spread
    return torch.where(state.pairs > 0, paired.clamp(-1, 1), 0.0)
