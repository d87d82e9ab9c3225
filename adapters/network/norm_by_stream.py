"""Norm layers in a pass over several streams: each stream by its own statistics and parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from adapters.base import NormLayer
from adapters.state import flatten, rebuild
from adapters.values import Moments, Normalized, PartState

Normalize: TypeAlias = Callable[[NormLayer, Any, Tensor], tuple[Normalized, PartState | None]]
"""Normalises (N, C, ...) of one stream by a layer and its state; returns the new state too, where there is one."""


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
    """Normalise the images of several streams, one after the other in x, each stream's by itself.

    Args:
        run: What normalises one stream's.
        layer: Its weight and bias are (C,), the same for all, or (S, C).
        state: Of all streams, stacked (S, ...); None if the layer keeps none.
        x: (S * images, C, ...).
        images: Of each stream.

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

    def one(kept: Mapping[str, Tensor], own: Mapping[str, Tensor], x: Tensor) -> tuple[Any, ...]:
        affine = {**shared, **own}
        view = StreamLayer(
            layer.name, layer.spatial, layer.mean, layer.var, affine["weight"], affine["bias"], layer.eps,
            layer.momentum,
        )  # fmt: skip
        normalized, after = run(view, None if state is None else rebuild(state, kept), x)
        structure.append(after)
        moments = {} if normalized.moments is None else vars(normalized.moments)
        return normalized.y, dict(moments), {} if after is None else flatten(after)

    kept = {} if state is None else flatten(state)
    y, moments, after = torch.vmap(one)(kept, own, x.reshape(-1, images, *x.shape[1:]))
    template = structure[0]
    normalized = Normalized(y.flatten(0, 1), Moments(**moments) if moments else None)
    return normalized, None if template is None else rebuild(template, after)
