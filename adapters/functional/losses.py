"""Losses per image, between two classifiers or of one classifier alone."""

import torch
from torch import Tensor


def symmetric_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return each row's cross-entropy (N,) between two classifiers, averaged over both directions.

    Both arguments are logits (N, C). The loss is -1/2 sum_c q_c log p_c - 1/2 sum_c p_c log q_c with p and q their
    softmax; it equals the entropy if both agree. The gradient flows into both: detach the one that should not learn.
    RMT's and ROID's form; Wang et al., ICCV 2019.

    Example:
        >>> symmetric_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.6931])
    """
    log_p, log_q = logits.log_softmax(1), target.log_softmax(1)
    return -(log_q.exp() * log_p + log_p.exp() * log_q).sum(1) / 2


def soft_likelihood_ratio(logits: Tensor, clip: float = 0.99, eps: float = 1e-5) -> Tensor:
    """Return each row's soft likelihood ratio (N,): -sum_c r_c log(r_c / (1 - r_c) + eps), r = min(softmax, clip).

    It is negative for a confident classifier, and at least about -4.5. Beyond the clip no gradient flows through r_c
    (ROID).

    Example:
        >>> soft_likelihood_ratio(torch.tensor([[0.0, 0.0], [100.0, 0.0]])).round(decimals=3)
        tensor([-0.0000, -4.5490])
    """
    r = logits.softmax(1).clamp_max(clip)
    return -(r * torch.log(r / (1 - r) + eps)).sum(1)
