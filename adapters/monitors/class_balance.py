"""What a stream's answers say of its classes: shares, how many classes are left, how far from the source's prior."""

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
    """Moving shares (C,) of the classes in a stream's answers, and () the weight that they rest on (0 before any)."""

    shares: Tensor
    weight: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"shares": (-0.01, 1.01), "weight": (0.0, 1.01)}


def init(classes: int) -> BalanceState:
    """Return the state before any answer: equal shares."""
    return BalanceState(torch.full((classes,), 1 / classes), torch.zeros(()))


def update(state: BalanceState, probabilities: Tensor, memory: float = 256.0) -> BalanceState:
    """Take in the probabilities (N, C) of a request's answers; rows that are not finite change nothing.

    Args:
        state: Before this request.
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
    """Return the entropy () of the mean answer in nats: ln(C) where all classes are met, 0 where one is left."""
    return torch.scalar_tensor(float(entropies(state.shares.numpy()[None])[0]))


def dominant_share(state: BalanceState) -> Tensor:
    """Return the largest class's share () of the answers."""
    return state.shares.max()


def prior_distance(state: BalanceState, prior: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence () of the shares from a prior (C,), between 0 and 1 (in units of ln 2).

    Reference: Lin, Divergence Measures Based on the Shannon Entropy, IEEE Trans. Information Theory 1991.

    Example:
        >>> prior_distance(init(2), torch.tensor([0.5, 0.5]))
        tensor(0.)
    """
    shares, usual = state.shares.numpy(), prior.to(state.shares).numpy()
    here, there, mixed = entropies(np.stack([shares, usual, (shares + usual) / 2])).tolist()
    return torch.scalar_tensor(min(max((mixed - (here + there) / 2) / math.log(2), 0.0), 1.0))
