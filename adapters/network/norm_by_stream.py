"""Norm layers in a pass over several streams, each with its own statistics and parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from adapters.base import NormLayer
from adapters.state import flatten, rebuild
from adapters.values import Moments, Normalized, PartState

Normalize: TypeAlias = Callable[[NormLayer, Any, Tensor], tuple[Normalized, PartState | None]]
"""Normalises one stream's (N, C, ...) with a layer and its state; returns the output and the new state, if any."""


@dataclass(frozen=True, slots=True)
class StreamLayer:
    """A norm layer with the weight and bias of one stream; see `NormLayer`."""

    name: str
    spatial: bool
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    momentum: float


def normalized_by_stream(
    run: Normalize, layer: NormLayer, state: PartState | None, x: Tensor, images: int
) -> tuple[Normalized, PartState | None]:
    """Normalise the images of several streams, each stream by itself.

    Args:
        run: Normalises one stream's images.
        layer: The layer; its weight and bias are (C,), shared by all streams, or (S, C).
        state: States of all streams, stacked (S, ...); None if the layer has no state.
        x: (S * images, C, ...), one stream after the other.
        images: Images per stream.

    Returns:
        The output (S * images, C, ...) with moments (S, ...), and the new states, stacked.
    """
    own: dict[str, Tensor] = {}
    shared: dict[str, Tensor | None] = {}
    for kind, values in (("weight", layer.weight), ("bias", layer.bias)):
        if values is not None and values.dim() > 1:
            own[kind] = values
        else:
            shared[kind] = values
    structure: list[PartState | None] = []

    def one(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], x: Tensor) -> tuple[Any, ...]:
        affine = {**shared, **own}
        view = StreamLayer(
            layer.name, layer.spatial, layer.mean, layer.var, affine["weight"], affine["bias"], layer.eps,
            layer.momentum,
        )  # fmt: skip
        normalized, after = run(view, None if state is None else rebuild(state, tensors), x)
        structure.append(after)
        moments = {} if normalized.moments is None else vars(normalized.moments)
        return normalized.y, dict(moments), {} if after is None else flatten(after)

    tensors = {} if state is None else flatten(state)
    y, moments, after = torch.vmap(one)(tensors, own, x.reshape(-1, images, *x.shape[1:]))
    template = structure[0]
    normalized = Normalized(y.flatten(0, 1), Moments(**moments) if moments else None)
    return normalized, None if template is None else rebuild(template, after)
