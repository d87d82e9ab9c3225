"""The selection of images for entropy learning: images that are reliable and not redundant (EATA)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from adapters.functional.entropy import entropy_of_logits


@dataclass(frozen=True)
class Selection:
    """A filtered batch.

    Attributes:
        loss: () weighted mean entropy of the selected images; 0 if there are none.
        mask: (N,) true for selected images.
        mean_probabilities: (C,) moving mean of selected outputs after this batch.
        seen: () true once an output has entered that mean.
    """

    loss: Tensor
    mask: Tensor
    mean_probabilities: Tensor
    seen: Tensor


def weighted_entropy(logits: Tensor, e_margin: float) -> Tensor:
    """Return the weighted mean entropy () of the selected images, from their logits (n, C).

    It equals the loss that `select` returns for a batch with these selected images.

    Example:
        >>> weighted_entropy(torch.zeros(1, 2), math.log(2))
        tensor(0.6931)
    """
    entropy = entropy_of_logits(logits)
    return (torch.exp(e_margin - entropy.detach()) * entropy).mean()


def masked_entropy(logits: Tensor, mask: Tensor, e_margin: float) -> Tensor:
    """Return the weighted mean entropy () of the images in a mask (N,), from logits (N, C); 0 if the mask is empty.

    Example:
        >>> masked_entropy(torch.zeros(2, 2), torch.tensor([True, False]), math.log(2))
        tensor(0.6931)
    """
    entropy = entropy_of_logits(logits)
    weight = torch.where(mask, torch.exp(e_margin - entropy.detach()), 0.0)
    return (weight * entropy).sum() / mask.sum().clamp_min(1)


def default_d_margin(classes: int) -> float:
    """Return EATA's redundancy threshold for a number of classes C, a little above cos(one-hot, uniform) = 1/sqrt(C).

    Example:
        >>> round(default_d_margin(10), 3), round(default_d_margin(1000), 3)
        (0.411, 0.041)
    """
    return min(0.95, 1.3 / math.sqrt(classes))


def select(logits: Tensor, mean_probabilities: Tensor, seen: Tensor, e_margin: float, d_margin: float) -> Selection:
    """Filter and weigh a batch as ETA does (EATA, eqs. 2-5).

    An image is reliable if its entropy < e_margin. It is new if |cos(mean, p)| < d_margin, or if there is no mean yet.
    Its weight is exp(e_margin - entropy). The mean moves by a tenth towards the selected images' mean output, and stays
    if there are none.

    Args:
        logits: (N, C).
        mean_probabilities: (C,) moving mean of selected outputs.
        seen: () true once an output has entered that mean.
        e_margin: Reliability threshold in nats.
        d_margin: Redundancy threshold, a cosine.
    """
    entropy = entropy_of_logits(logits.detach())
    probabilities = logits.detach().softmax(1)
    similarity = cosine_similarity(mean_probabilities[None], probabilities, dim=1).abs()
    mask = (entropy < e_margin) & (~seen | (similarity < d_margin))
    mean = torch.where(mask[:, None], probabilities, 0.0).sum(0) / mask.sum().clamp_min(1)
    moved = torch.where(seen, 0.9 * mean_probabilities + 0.1 * mean, mean)
    return Selection(
        loss=masked_entropy(logits, mask, e_margin),
        mask=mask,
        mean_probabilities=torch.where(mask.any(), moved, mean_probabilities),
        seen=seen | mask.any(),
    )
