"""Class balance of a stream's answers: class shares, their entropy, and their distance from the source's prior."""

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


@dataclass(frozen=True)
class BalanceState(PartState):
    """Moving class shares (C,) of a stream's answers, and () their weight, from 0 (no answers yet) to 1."""

    shares: Tensor
    weight: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"shares": (-0.01, 1.01), "weight": (0.0, 1.01)}


def init(classes: int) -> BalanceState:
    """Return the initial state: equal shares."""
    return BalanceState(torch.full((classes,), 1 / classes), torch.zeros(()))


def update(state: BalanceState, probabilities: Tensor, memory: float = 256.0) -> BalanceState:
    """Update the shares with the probabilities (N, C) of a request's answers; rows that are not finite change nothing.

    Args:
        state: The state before this request.
        probabilities: (N, C), N at least 1.
        memory: Images after which an answer has lost two thirds of its weight.

    Example:
        >>> dominant_share(update(init(2), torch.tensor([[1.0, 0.0]] * 4)))
        tensor(1.)
    """
    rows = sound_rows(probabilities)
    if not len(rows):
        return state
    keep = math.exp(-len(rows) / memory)
    weight = keep * float(state.weight) + (1 - keep)
    before = state.shares.numpy()
    shares = before + (1 - keep) / weight * (rows.mean(0).astype(before.dtype) - before)
    return BalanceState(torch.from_numpy(shares), torch.scalar_tensor(weight))


def marginal_entropy(state: BalanceState) -> Tensor:
    """Return the entropy () of the mean answer in nats: ln(C) for equal class shares, 0 if one class is left."""
    return torch.scalar_tensor(float(entropies(state.shares.numpy()[None])[0]))


def dominant_share(state: BalanceState) -> Tensor:
    """Return the share () of the most frequent class."""
    return state.shares.max()


def prior_distance(state: BalanceState, prior: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence () of the shares from a prior (C,), between 0 and 1 (in units of ln 2).

    Reference: Lin, Divergence Measures Based on the Shannon Entropy, IEEE Trans. Information Theory 1991.

    Example:
        >>> prior_distance(init(2), torch.tensor([0.5, 0.5]))
        tensor(0.)
    """
    shares, source = state.shares.numpy(), prior.to(state.shares).numpy()
    of_shares, of_source, of_mixture = entropies(np.stack([shares, source, (shares + source) / 2])).tolist()
    return torch.scalar_tensor(min(max((of_mixture - (of_shares + of_source) / 2) / math.log(2), 0.0), 1.0))
