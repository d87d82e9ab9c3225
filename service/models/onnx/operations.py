"""The supported ONNX operations, each with a function that makes its layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.onnx.layers import average_pool, batch_norm, conv, gemm, max_pool, weighted_matmul
from service.models.onnx.node import Apply, Site
from service.models.onnx.reader import DTYPES

MAX_GATHERED = 256
EVERY = 2**31 - 1
"""More inputs than any node has, and more elements than any dimension. Exporters write it for "to the end"."""


@dataclass(frozen=True)
class Operation:
    """A function that makes a node's layer, and the number of leading inputs that the layer takes at run time.

    The other inputs must be constant; `make` reads them.
    """

    make: Callable[[Site], nn.Module]
    inputs: int = 1


def operation(at: Site) -> Operation:
    """Return the operation of a node.

    Raises:
        UnfitError: If it is not supported.
    """
    factor = at.operand(1)
    if at.node.op == "MatMul" and factor is not None and not factor.live and factor.each[0].dim() == 2:
        return Operation(weighted_matmul)
    if at.node.op not in OPERATIONS:
        raise at.refusal("is of an operation that is not known")
    return OPERATIONS[at.node.op]


def _plain(function: Callable[..., Tensor], inputs: int = 1) -> Operation:
    return Operation(lambda _: Apply(function), inputs)


def _identity(_: Site) -> nn.Module:
    return nn.Identity()


def _dropout(at: Site) -> nn.Module:
    training = at.tensor(2)
    if training is not None and bool(training):
        raise at.refusal("is in training mode")
    return nn.Identity()


def _leaky_relu(at: Site) -> nn.Module:
    return nn.LeakyReLU(at.number("alpha", 0.01))


def _clip(at: Site) -> nn.Module:
    low, high = (_bound(at, position, name) for position, name in ((1, "min"), (2, "max")))
    return nn.Identity() if low is None and high is None else Apply(partial(torch.clamp, min=low, max=high))


def _bound(at: Site, position: int, name: str) -> float | None:
    tensor = at.tensor(position)
    if tensor is not None:
        return float(tensor)
    return at.number(name, 0.0) if name in at.node.attributes else None


def _hard_sigmoid(at: Site) -> nn.Module:
    return Apply(partial(_clamped_line, slope=at.number("alpha", 0.2), shift=at.number("beta", 0.5)))


def _clamped_line(x: Tensor, slope: float, shift: float) -> Tensor:
    return (x * slope + shift).clamp(0, 1)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _global_average_pool(at: Site) -> nn.Module:
    return Apply(partial(torch.mean, dim=tuple(range(2, at.rank)), keepdim=True))


def _reduce_mean(at: Site) -> nn.Module:
    axes = at.listed(1, "axes") or ()
    if not axes and at.integer("noop_with_empty_axes", 0):
        return nn.Identity()
    return Apply(partial(torch.mean, dim=axes or tuple(range(at.rank)), keepdim=bool(at.integer("keepdims", 1))))


def _softmax(at: Site) -> nn.Module:
    axis = at.integer("axis", -1 if at.opset >= 13 else 1)
    if at.opset < 13 and axis % at.rank != at.rank - 1:
        raise at.refusal(f"normalises over all dimensions from {axis} on")
    return nn.Softmax(axis)


def _cast(at: Site) -> nn.Module:
    kind = at.integer("to", 0)
    if kind not in DTYPES:
        raise at.refusal(f"casts to the type {kind}")
    return Apply(partial(torch.Tensor.to, dtype=DTYPES[kind]))


def _cast_like(at: Site) -> nn.Module:
    like = at.operand(1)
    if like is None:
        raise at.refusal("lacks its input 1")
    return Apply(partial(torch.Tensor.to, dtype=like.each[0].dtype))


def _concat(at: Site) -> nn.Module:
    return Apply(partial(_joined, axis=at.integer("axis", 0)))


def _joined(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _transpose(at: Site) -> nn.Module:
    return Apply(partial(torch.permute, dims=at.integers("perm", ()) or tuple(range(at.rank))[::-1]))


def _flatten(at: Site) -> nn.Module:
    axis = at.integer("axis", 1)
    axis = axis + at.rank if axis < 0 else axis
    return _reshaped(at, [[prod(shape[:axis]), prod(shape[axis:])] for shape in at.shapes()])


def _reshape(at: Site) -> nn.Module:
    target = at.operand(1)
    if target is None or target.live:
        raise at.refusal("takes its shape from the images")
    keeps_zeros = bool(at.integer("allowzero", 0))
    pairs = zip(at.shapes(), target.each, strict=True)
    return _reshaped(at, [_whole(shape, each.flatten().tolist(), keeps_zeros) for shape, each in pairs])


def _whole(shape: torch.Size, target: list[int], keeps_zeros: bool) -> list[int]:
    """Resolve the target of a Reshape: a 0 keeps the input's dimension, a -1 takes the remaining elements."""
    whole = [shape[i] if size == 0 and not keeps_zeros else size for i, size in enumerate(target)]
    remaining = prod(shape) // max(prod(size for size in whole if size != -1), 1)
    return [remaining if size == -1 else size for size in whole]


def _reshaped(at: Site, shapes: list[list[int]]) -> nn.Module:
    """Make a reshape to the shapes for both probes; the dimension that differs between them is the batch's."""
    first, second = shapes
    general = [size if size == other else -1 for size, other in zip(first, second, strict=True)]
    if general.count(-1) > 1:
        raise at.refusal("reshapes the batch dimension into several dimensions")
    return Apply(partial(torch.reshape, shape=tuple(general)))


def _squeeze(at: Site) -> nn.Module:
    axes = at.listed(1, "axes")
    data = at.operand(0)
    if axes is None and data is not None and data.live:
        raise at.refusal("would also remove the batch dimension of a single image")
    if axes is None:
        axes = tuple(i for i, size in enumerate(at.shapes()[0]) if size == 1)
    return Apply(partial(torch.squeeze, dim=axes))


def _unsqueeze(at: Site) -> nn.Module:
    axes = at.listed(1, "axes") or ()
    rank = at.rank + len(axes)
    return Apply(partial(_with_axes, axes=tuple(sorted(axis % rank for axis in axes))))


def _with_axes(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _slice(at: Site) -> nn.Module:
    starts, ends = at.listed(1, "starts"), at.listed(2, "ends")
    if starts is None or ends is None:
        raise at.refusal("lacks its bounds")
    axes = at.listed(3, "axes") or tuple(range(len(starts)))
    steps = at.listed(4, "steps") or (1,) * len(starts)
    index, flipped = [slice(None)] * at.rank, []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if (start, step) == (-1, -1) and end <= -EVERY:
            flipped.append(axis)
        elif step < 1:
            raise at.refusal("has a negative step over a part of a dimension")
        else:
            index[axis] = slice(start or None, None if end >= EVERY else end, step)
    return Apply(partial(_part, index=tuple(index), flipped=tuple(flipped)))


def _part(x: Tensor, index: tuple[slice, ...], flipped: tuple[int, ...]) -> Tensor:
    return x[index].flip(flipped) if flipped else x[index]


def _gather(at: Site) -> nn.Module:
    axis, index = at.integer("axis", 0), at.needed(1)
    if index.dim() == 0:
        return Apply(partial(torch.select, dim=axis, index=int(index)))
    if index.dim() > 1 or len(index) > MAX_GATHERED:
        raise at.refusal(
            f"gathers with indices of shape {tuple(index.shape)}, expected at most {MAX_GATHERED} in one dimension"
        )
    return Apply(partial(_gathered, axis=axis, index=tuple(index.tolist())))


def _gathered(x: Tensor, axis: int, index: tuple[int, ...]) -> Tensor:
    return torch.stack([x.select(axis, each) for each in index], axis)


def _pad(at: Site) -> nn.Module:
    mode = at.text("mode", "constant")
    pads, value = at.listed(1, "pads"), at.tensor(2)
    if mode != "constant" or pads is None:
        raise at.refusal(f"has padding mode {mode!r}, expected 'constant' with constant widths")
    axes = at.listed(3, "axes") or tuple(range(at.rank))
    sides = {axis % at.rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    widths = [width for axis in reversed(range(at.rank)) for width in sides.get(axis, (0, 0))]
    filled = at.number("value", 0.0) if value is None else float(value)
    return Apply(partial(functional.pad, pad=widths, value=filled))


def _expand(at: Site) -> nn.Module:
    return Apply(partial(_expanded, shape=at.listed(1, "shape") or ()))


def _expanded(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.broadcast_to(numpy.broadcast_shapes(x.shape, shape))


def _constant_of_shape(at: Site) -> nn.Module:
    value = at.node.attributes.get("value", torch.zeros(1))
    if not isinstance(value, Tensor):
        raise at.refusal("has no value")
    return Apply(partial(torch.full, tuple(at.listed(0, "shape") or ()), value.item(), dtype=value.dtype))


OPERATIONS: Mapping[str, Operation] = {
    "Add": _plain(torch.add, 2),
    "AveragePool": Operation(average_pool),
    "BatchNormalization": Operation(batch_norm),
    "Cast": Operation(_cast),
    "CastLike": Operation(_cast_like),
    "Clip": Operation(_clip),
    "Concat": Operation(_concat, EVERY),
    "ConstantOfShape": Operation(_constant_of_shape, 0),
    "Conv": Operation(conv),
    "Div": _plain(_divide, 2),
    "Dropout": Operation(_dropout),
    "Expand": Operation(_expand),
    "Flatten": Operation(_flatten),
    "Gather": Operation(_gather),
    "Gemm": Operation(gemm),
    "GlobalAveragePool": Operation(_global_average_pool),
    "HardSigmoid": Operation(_hard_sigmoid),
    "HardSwish": _plain(functional.hardswish),
    "Identity": Operation(_identity),
    "LeakyRelu": Operation(_leaky_relu),
    "MatMul": _plain(torch.matmul, 2),
    "MaxPool": Operation(max_pool),
    "Mul": _plain(torch.mul, 2),
    "Pad": Operation(_pad),
    "ReduceMean": Operation(_reduce_mean),
    "Relu": _plain(torch.relu),
    "Reshape": Operation(_reshape),
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": Operation(_slice),
    "Softmax": Operation(_softmax),
    "Squeeze": Operation(_squeeze),
    "Sub": _plain(torch.sub, 2),
    "Transpose": Operation(_transpose),
    "Unsqueeze": Operation(_unsqueeze),
}
"""The operations by name. `Constant` and `Shape` are not here, because they are resolved while a graph is read."""
