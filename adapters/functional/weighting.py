"""ROID's weights of a batch's images, by the certainty of their outputs and their distance from the mean output."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from adapters.functional.entropy import entropy_of_logits

LEAST_RANGE = 1e-12
"""Scores within a smaller range count as equal: dividing by it would give NaN for a single image or for equal ones."""


@dataclass(frozen=True)
class Weighting:
    """A weighed batch.

    Attributes:
        weight: (N,) exp(diversity * certainty / temperature), 1 to exp(1 / temperature); 0 for images left out.
        kept: (N,) false for images left out.
        mean_probabilities: (C,) moving mean of outputs after this batch.
    """

    weight: Tensor
    kept: Tensor
    mean_probabilities: Tensor


def weigh(logits: Tensor, mean_probabilities: Tensor, temperature: float, momentum: float = 0.9) -> Weighting:
    """Weigh a batch as ROID does; no gradient flows.

    Diversity is 1 - cos(mean, p), certainty is minus the entropy, each scaled to 0-1 over the batch. Images with less
    than mean diversity are left out. After this comparison all images update the mean of outputs.

    Args:
        logits: (N, C).
        mean_probabilities: (C,) moving mean of outputs.
        temperature: The lower, the more the weights differ.
        momentum: Share of the moving mean that stays.
    """
    logits = logits.detach()
    probabilities = logits.softmax(1)
    diversity = scaled(1 - cosine_similarity(mean_probabilities[None], probabilities, dim=1))
    certainty = scaled(-entropy_of_logits(logits))
    kept = ~(diversity < diversity.mean())  # never empty, even with NaN
    weight = torch.where(kept, torch.exp(diversity * certainty / temperature), 0.0)
    return Weighting(weight, kept, momentum * mean_probabilities + (1 - momentum) * probabilities.mean(0))


def scaled(scores: Tensor) -> Tensor:
    """Return scores (N,) scaled to 0-1 over the batch; all 1 if they are equal.

    Example:
        >>> scaled(torch.tensor([1.0, 2.0, 3.0])), scaled(torch.tensor([2.0, 2.0]))
        (tensor([0.0000, 0.5000, 1.0000]), tensor([1., 1.]))
    """
    low, span = scores.amin(), scores.amax() - scores.amin()
    equal = span < LEAST_RANGE
    return torch.where(equal, 1.0, (scores - low) / torch.where(equal, 1.0, span))
