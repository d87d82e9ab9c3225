"""Means and variances of activations, and normalisation with them."""

import torch
from torch import Tensor

from adapters.base import NormLayer
from adapters.functional.affine import instance_powers, scaled
from adapters.values import Moments


def channel_moments(x: Tensor) -> Moments:
    """Return the biased moments (C,) of x (N, C, ...) over all dimensions except channels.

    Variances come from the mean of squares, which is far cheaper on a CPU than `var_mean`. Relative to the squared mean
    they are exact to about 1e-6 in float32, and they are never negative.

    Example:
        >>> channel_moments(torch.tensor([[1.0], [3.0]]))
        Moments(mean=tensor([2.]), var=tensor([1.]))
    """
    if x.dim() == 2:
        mean, square = x.mean(0), x.square().mean(0)
    else:
        means, squares = instance_powers(x)
        mean, square = means.mean(0), squares.mean(0)
    return Moments(mean, (square - mean.square()).clamp_min(0))


def instance_moments(x: Tensor) -> Moments:
    """Return each image's biased moments (N, C) of x (N, C, ...) over positions.

    Example:
        >>> instance_moments(torch.tensor([[[1.0, 3.0]]]))
        Moments(mean=tensor([[2.]]), var=tensor([[1.]]))
    """
    mean, square = instance_powers(x)
    return Moments(mean, (square - mean.square()).clamp_min(0))


def pooled(instance: Moments) -> Moments:
    """Return the batch moments (C,) from each image's moments (N, C), by the law of total variance.

    Example:
        >>> pooled(Moments(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
        Moments(mean=tensor([2.]), var=tensor([1.]))
    """
    mean = instance.mean.mean(0)
    return Moments(mean, instance.var.mean(0) + (instance.mean - mean).square().mean(0))


def batch_share(momentum: float, images: int, full_batch: int | None) -> float:
    """Return a batch's share in running statistics: `momentum` for a full batch, less for a smaller one.

    Small batches that together make a full batch have the same total share as that batch.

    Example:
        >>> batch_share(0.1, 64, 64), round(batch_share(0.1, 1, 64), 5), batch_share(0.1, 1, None)
        (0.1, 0.00164, 0.1)
    """
    return momentum if full_batch in (None, images) else 1 - (1 - momentum) ** (images / full_batch)


def normalize(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return weight * (x - mean) / sqrt(var + eps) + bias for x (N, C, ...), moments (C,) or per image (N, C).

    The computation is one scale and one shift per channel, so that x is read once.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> normalize(x, torch.tensor([2.0]), torch.tensor([1.0]), None, None, 0.0).flatten()
        tensor([-1.,  1.])
    """
    scale = torch.rsqrt(var + eps) if weight is None else torch.rsqrt(var + eps) * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scaled(x, scale, shift)


def source_normalize(layer: NormLayer, x: Tensor) -> Tensor:
    """Normalise x (N, C, ...) by a layer's source statistics."""
    return normalize(x, layer.mean, layer.var, layer.weight, layer.bias, layer.eps)
