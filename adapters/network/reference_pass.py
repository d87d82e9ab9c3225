"""Measures reference statistics: one pass of the frozen network over source images."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Normalizer, NormLayer
from adapters.functional.moments import source_normalize
from adapters.network.module_net import ModuleNet
from adapters.network.reference_statistics import with_reference
from adapters.options import Options
from adapters.source import SourceModel
from adapters.values import Moments, Normalized, PartState


@torch.no_grad()
def measure_reference(source: SourceModel, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the mean and biased variance of each norm layer's inputs over all images and positions.

    Layers whose statistics the network's own code reads are left out. A layer that runs several times in a pass is
    measured at the last one.

    Args:
        source: The model.
        batches: Inputs (N, *input_shape).

    Returns:
        `<layer>.mean` and `<layer>.var` (C,) by layer.
    """
    bare = with_reference(source, {})
    net = ModuleNet(bare, bare.shared_copy(), _Accumulating(Options()), seed=0)
    norm = net.initial_norm
    for x in batches:
        _, norm = net.observe({}, norm, x)
    measured = {name: state for name, state in norm.items() if isinstance(state, _Sums)}
    moments = {name: state.moments for name, state in measured.items()}
    return {f"{name}.{kind}": tensor for name, each in moments.items() for kind, tensor in vars(each).items()}


@dataclass(frozen=True)
class _Sums(PartState):
    """Values seen (), their mean (C,) and their sum of squared deviations (C,), in float64."""

    count: Tensor
    mean: Tensor
    deviations: Tensor

    @property
    def moments(self) -> Moments:
        return Moments(self.mean.float(), (self.deviations / self.count.clamp_min(1)).float())


class _Accumulating(Normalizer[_Sums]):
    """Normalises by the source statistics, and accumulates the moments of all inputs.

    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
    """

    name = "source"
    paper = "ours"
    remembers = "moments"

    def init(self, layer: NormLayer, generator: torch.Generator) -> _Sums:
        zeros = torch.zeros_like(layer.mean, dtype=torch.float64)
        return _Sums(torch.zeros((), dtype=torch.float64), zeros, zeros)

    def observe(self, layer: NormLayer, state: _Sums, x: Tensor) -> tuple[Normalized, _Sums]:
        values = x.double().transpose(0, 1).flatten(1)
        count = values.shape[1]
        total = state.count + count
        apart = values.mean(1) - state.mean
        between = apart.square() * (state.count * count / total)
        deviations = state.deviations + values.var(1, correction=0) * count + between
        return Normalized(source_normalize(layer, x), None), _Sums(
            total, state.mean + apart * (count / total), deviations
        )

    def forward(self, layer: NormLayer, state: _Sums, x: Tensor) -> Normalized:
        return Normalized(source_normalize(layer, x), None)
