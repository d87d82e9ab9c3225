"""The distance of a batch's norm statistics from the source's: the drift signal."""

from torch import Tensor

from adapters.values import Moments


def distance(batch: Moments, source: Moments, eps: float = 1e-5) -> Tensor:
    """Return the mean over channels of ((mu_b - mu_s)^2 + (sigma_b - sigma_s)^2) / (sigma_s^2 + eps).

    It is () for moments (C,) of a batch, and (N,) for moments (N, C) of each image; the source's moments are (C,). It
    is finite for a single image. It is the squared 2-Wasserstein distance between Gaussians, in source variances.

    Example:
        >>> import torch
        >>> source = Moments(torch.zeros(2), torch.ones(2))
        >>> distance(Moments(torch.ones(2), torch.ones(2)), source)
        tensor(1.0000)
    """
    spread = batch.var.clamp_min(0).sqrt() - source.var.sqrt()
    return (((batch.mean - source.mean).square() + spread.square()) / (source.var + eps)).mean(-1).detach()
