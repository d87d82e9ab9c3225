"""Softmax entropy."""

import torch
from torch import Tensor


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Return each row's softmax entropy (N,) in nats; logits are (N, C).

    It is computed in the log domain, so that logits of 1e4 give 0 and not NaN. Tent, eq. 1.

    Example:
        >>> entropy_of_logits(torch.zeros(1, 2))
        tensor([0.6931])
        >>> entropy_of_logits(torch.tensor([[1e4, -1e4]]))
        tensor([0.])
    """
    log_p = logits.log_softmax(1)
    return (log_p.exp() * -log_p).sum(1)


def entropy_above_floor(logits: Tensor, floor: float = 1e-6) -> Tensor:
    """Return -sum p log(p + floor) of each row (N,) in nats; logits are (N, C).

    This is RoTTA's and NOTE's form of the entropy. For a certain answer it is about -floor, slightly below 0.

    Example:
        >>> entropy_above_floor(torch.zeros(1, 2))
        tensor([0.6931])
    """
    p = logits.softmax(1)
    return -(p * (p + floor).log()).sum(1)


def entropy_of_probabilities(probabilities: Tensor) -> Tensor:
    """Return each row's entropy (N,) in nats; probabilities are (N, C), zeros allowed.

    Example:
        >>> entropy_of_probabilities(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    entropies: Tensor = torch.special.entr(probabilities)
    return entropies.sum(1)
