"""Affinities between the feature vectors of one batch; they are finite for a single image and for duplicates."""

import torch
from torch import Tensor

SIGMA_FLOOR = 1e-6
"""Smallest kernel width. Unit vectors are at most 2 apart; duplicates differ by rounding errors only."""


def distances(features: Tensor) -> Tensor:
    """Return Euclidean distances (N, N) between unit vectors `features` (N, d); the diagonal is exactly 0.

    They are computed from products of centred vectors, so that small distances keep their precision.

    Example:
        >>> distances(torch.eye(2))
        tensor([[0.0000, 1.4142],
                [1.4142, 0.0000]])
    """
    centred = features - features.mean(0)
    lengths = centred.square().sum(1)
    squared = (lengths[:, None] + lengths - 2 * centred @ centred.mT).clamp_min(0)
    return squared.masked_fill(_self(features), 0).sqrt()


def rbf(features: Tensor, k: int) -> Tensor:
    """Return exp(-d^2 / 2 sigma^2) (N, N); sigma is the mean distance to the k-th nearest point, counting itself.

    Row sums grow with the batch, so that larger batches are smoothed more strongly (LAME's default kernel).

    Example:
        >>> rbf(torch.eye(2), 2)
        tensor([[1.0000, 0.6065],
                [0.6065, 1.0000]])
    """
    d = distances(features)
    kth = d.topk(min(k, d.shape[0]), largest=False).values[:, -1]
    sigma = kth.mean().clamp_min(SIGMA_FLOOR)
    return torch.exp(-d.square() / (2 * sigma.square()))


def knn(features: Tensor, k: int) -> Tensor:
    """Return (N, N) with 1 for each row's k nearest other rows, else 0; exact duplicates count as other rows.

    Example:
        >>> knn(torch.eye(2), 1)
        tensor([[0., 1.],
                [1., 0.]])
    """
    others = distances(features).masked_fill(_self(features), torch.inf)
    n = others.shape[0]
    if n < 2:
        return torch.zeros_like(others)
    nearest = others.topk(min(k, n - 1), largest=False).indices
    return torch.zeros_like(others).scatter(1, nearest, 1.0)


def linear(features: Tensor) -> Tensor:
    """Return cosines (N, N) of unit vectors `features` (N, d); they may be negative.

    Example:
        >>> linear(torch.eye(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return features @ features.mT


def _self(features: Tensor) -> Tensor:
    return torch.eye(features.shape[0], dtype=torch.bool, device=features.device)
