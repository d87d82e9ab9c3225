"""Distances of a layer's batch statistics from the source's: symmetric KL and Wasserstein between Gaussians."""

from dataclasses import dataclass

from torch import Tensor

from adapters.values import Moments

LEAST_VARIANCE = 1e-5


@dataclass(frozen=True)
class LayerDistance:
    """Means over a layer's channels, () each.

    Attributes:
        kl: Symmetric Kullback-Leibler divergence, nats.
        wasserstein: 2-Wasserstein distance, in source standard deviations.
    """

    kl: Tensor
    wasserstein: Tensor


def between(batch: Moments, source: Moments, eps: float = LEAST_VARIANCE) -> LayerDistance:
    """Compare a batch's moments (C,) with the source's (C,), channel by channel as Gaussians.

    `eps` is added to both variances, so that a constant channel stays finite.

    Example:
        >>> import torch
        >>> unit = Moments(torch.zeros(3), torch.ones(3))
        >>> between(Moments(torch.ones(3), torch.ones(3)), unit, eps=0.0)
        LayerDistance(kl=tensor(1.), wasserstein=tensor(1.))
    """
    one, other = batch.var.clamp_min(0) + eps, source.var.clamp_min(0) + eps
    shift = (batch.mean - source.mean).square()
    kl = 0.5 * (one / other + other / one - 2 + shift * (1 / one + 1 / other))
    spread = (one.sqrt() - other.sqrt()).square()
    return LayerDistance(kl.mean(), ((shift + spread) / other).sqrt().mean())
