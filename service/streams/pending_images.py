"""The window: images answered by `predict` that wait for an adaptation step, kept as uint8."""

import torch
from torch import Tensor

from service.types import LARGEST_BATCH, InputSpec

MOST_WAITING = 2 * LARGEST_BATCH
"""Upper bound on the images in a window: it and the request that fills it are each smaller than a batch."""


def empty(spec: InputSpec) -> Tensor:
    """Return an empty window (0, C, H, W)."""
    return torch.zeros(0, *spec.shape, dtype=torch.uint8)


def append(window: Tensor, x: Tensor, spec: InputSpec) -> Tensor:
    """Return the window with x (N, C, H, W) appended, rounded to 256 levels of the value range."""
    low, high = spec.value_range
    levels = ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
    return torch.cat([window, levels])


def images(window: Tensor, spec: InputSpec) -> Tensor:
    """Return the window's images (N, C, H, W) in the value range."""
    low, high = spec.value_range
    return window.float() / 255 * (high - low) + low
