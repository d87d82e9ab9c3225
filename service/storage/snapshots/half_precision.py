"""Half precision for stored streams: half the size, with a bounded error for each number."""

from collections.abc import Mapping

import torch
from torch import Tensor

RELATIVE_ERROR = 2.0**-11
"""Largest relative error of a number: float16 keeps eleven bits of it."""
NEGLIGIBLE = 1e-3
"""Share of a tensor's largest number; smaller numbers may have the absolute error of one of that size."""


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with float32 ones as float16, except those with numbers too small or too great for it.

    Example:
        >>> {name: tensor.dtype for name, tensor in halved({"w": torch.ones(2), "v": torch.full((2,), 1e-9)}).items()}
        {'w': torch.float16, 'v': torch.float32}
    """
    return {name: _halved(tensor) for name, tensor in tensors.items()}


def widened(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with float16 ones as float32 if the tensor of the same name in `like` is float32."""
    return {name: _widened(tensor, like.get(name)) for name, tensor in tensors.items()}


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.to(torch.float16)
    size, off = tensor.abs(), (half.to(torch.float32) - tensor).abs()
    bound = RELATIVE_ERROR * size.clamp_min(NEGLIGIBLE * float(size.max()) if size.numel() else 0.0)
    return half if bool((off <= bound).all()) else tensor


def _widened(tensor: Tensor, like: Tensor | None) -> Tensor:
    if like is None or (tensor.dtype, like.dtype) != (torch.float16, torch.float32):
        return tensor
    return tensor.to(torch.float32)
