"""Source statistics: the frozen model's own normalisation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Moments, Normalized, Normalizer, NormLayer
from adapters.functional.moments import channel_moments, source_normalize
from adapters.monitors import moving_moments
from adapters.monitors.moving_moments import MomentsState
from adapters.options import Options, option


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """What is measured on the way."""

    measure: bool = option(False, "measure drift in every norm layer, not in the first two alone")
    memory: int = option(0, "images that remembered moments fade over; 0: the last batch's", low=0, high=10**6)


class SourceStatistics(Normalizer[MomentsState]):
    """Normalise by the running statistics of training, as the frozen model does.

    Remembers: nothing; with `measure` the moments that it measures.
    Needs: nothing; works on every model, an ONNX graph too.
    Reference: Ioffe and Szegedy, Batch Normalization, ICML 2015 (inference form).

    Example:
        >>> from adapters import create
        >>> str(create("source").spec)
        'source'
    """

    name = "source"
    paper = "Ioffe, Szegedy: Batch Normalization, ICML 2015"
    remembers = "nothing; with `measure` the moments that it measures"
    options_class = SourceOptions
    options: SourceOptions

    def handles(self, layer: NormLayer) -> bool:
        """Leave every layer with its source statistics, unless they are to be measured."""
        return self.options.measure

    def init(self, layer: NormLayer, generator: torch.Generator) -> MomentsState:
        """Return the state before any batch."""
        return moving_moments.init(Moments(layer.mean, layer.var))

    def observe(self, layer: NormLayer, state: MomentsState, x: Tensor) -> tuple[Normalized, MomentsState]:
        """Normalise x (N, C, ...) by the source statistics; measure its own, and remember them."""
        moments = channel_moments(x.detach())
        moved = moving_moments.update(state, moments, len(x), self.options.memory)
        return Normalized(source_normalize(layer, x), moments), moved

    def forward(self, layer: NormLayer, state: MomentsState, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by the source statistics, and measure its own moments."""
        return Normalized(source_normalize(layer, x), channel_moments(x.detach()))
