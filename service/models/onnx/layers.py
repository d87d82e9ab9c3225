"""The ONNX operations that have weights or a window, as PyTorch layers."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor, nn

from service.models.onnx.node import Site

Pads = tuple[int, int, int, int]
"""Top, left, bottom, right."""


def conv(at: Site) -> nn.Module:
    """Make a convolution over images."""
    weight, bias = at.needed(1), _some(at.tensor(2))
    if weight.dim() != 4:
        raise at.refusal(f"has a kernel of {weight.dim() - 2} dimensions, expected 2")
    kernel, groups = (weight.shape[2], weight.shape[3]), at.integer("group", 1)
    strides, dilations = at.integers("strides", (1, 1)), at.integers("dilations", (1, 1))

    def layer(padding: tuple[int, int]) -> nn.Module:
        with torch.device("meta"):
            empty = nn.Conv2d(weight.shape[1] * groups, len(weight), kernel, (strides[0], strides[1]), padding,
                              (dilations[0], dilations[1]), groups, bias is not None)  # fmt: skip
        return _with_weights(empty, weight, bias)

    return _padded(_pads(at, kernel, strides, dilations), 0.0, layer)


def batch_norm(at: Site) -> nn.Module:
    """Make a batch norm, in eval mode, from the node's running statistics."""
    if at.integer("training_mode", 0):
        raise at.refusal("is in training mode")
    if at.rank not in (2, 3, 4):
        raise at.refusal(f"normalises {at.rank} dimensions, expected 2 to 4")
    kind = nn.BatchNorm2d if at.rank == 4 else nn.BatchNorm1d
    scale, bias, mean, var = (at.needed(position) for position in range(1, 5))
    momentum = round(1 - at.number("momentum", 0.9), 6)  # ONNX's momentum is the share of the old value
    norm = kind(len(scale), at.number("epsilon", 1e-5), momentum)
    _with_weights(norm, scale, bias)
    norm.running_mean, norm.running_var = mean, var
    return norm.eval()


def gemm(at: Site) -> nn.Module:
    """Make a linear layer from a Gemm node."""
    weight, bias = at.needed(1), at.tensor(2)
    if at.integer("transA", 0):
        raise at.refusal("transposes its first input")
    weight = weight if at.integer("transB", 0) else weight.T
    if bias is not None:
        bias = bias.broadcast_to(1, len(weight))[0] * at.number("beta", 1.0)
    return _linear(weight * at.number("alpha", 1.0), bias)


def weighted_matmul(at: Site) -> nn.Module:
    """Make a linear layer from a MatMul by a constant matrix."""
    return _linear(at.needed(1).T, None)


def max_pool(at: Site) -> nn.Module:
    """Make a max-pooling layer."""
    kernel, strides, dilations = _window(at)
    ceiling = bool(at.integer("ceil_mode", 0))
    return _padded(
        _pads(at, kernel, strides, dilations),
        -torch.inf,
        lambda padding: nn.MaxPool2d(kernel, strides, padding, dilations, ceil_mode=ceiling),
    )


def average_pool(at: Site) -> nn.Module:
    """Make an average-pooling layer."""
    kernel, strides, dilations = _window(at)
    ceiling, counted = bool(at.integer("ceil_mode", 0)), bool(at.integer("count_include_pad", 0))
    pads = _pads(at, kernel, strides, dilations)
    if dilations != (1, 1) or (pads[:2] != pads[2:] and not counted):
        raise at.refusal("has dilations or asymmetric padding")
    return _padded(pads, 0.0, lambda padding: nn.AvgPool2d(kernel, strides, padding, ceiling, counted))


def _some(bias: Tensor | None) -> Tensor | None:
    """Return None for a bias of zeros, which some exporters add to convolutions without bias."""
    return bias if bias is not None and bool(bias.any()) else None


def _with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight)
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    return layer


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], len(weight), bias is not None)
    return _with_weights(layer, weight.contiguous(), bias)


def _window(at: Site) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return kernel, strides and dilations of a pooling node over images."""
    kernel = at.integers("kernel_shape", ())
    if at.rank != 4 or len(kernel) != 2:
        raise at.refusal(f"pools over {len(kernel)} dimensions, expected 2")
    strides, dilations = at.integers("strides", (1, 1)), at.integers("dilations", (1, 1))
    return (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1])


def _pads(at: Site, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> Pads:
    mode = at.text("auto_pad", "NOTSET")
    if mode == "NOTSET":
        top, left, bottom, right = at.integers("pads", (0, 0, 0, 0))
        return top, left, bottom, right
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise at.refusal(f"has auto_pad = {mode!r}")
    windows = zip(at.shapes()[0][2:], kernel, strides, dilations, strict=True)
    total = [max((ceil(size / step) - 1) * step + (k - 1) * gap + 1 - size, 0) for size, k, step, gap in windows]
    smaller, larger = [each // 2 for each in total], [each - each // 2 for each in total]
    before, after = (smaller, larger) if mode == "SAME_UPPER" else (larger, smaller)
    return before[0], before[1], after[0], after[1]


def _padded(pads: Pads, value: float, layer: Callable[[tuple[int, int]], nn.Module]) -> nn.Module:
    """Return a layer with its padding. PyTorch's layers support only symmetric padding, so others get a pad layer."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return layer((top, left))
    return nn.Sequential(nn.ConstantPad2d((left, right, top, bottom), value), layer((0, 0)))
