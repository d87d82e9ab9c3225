"""Source statistics: the frozen model's own normalisation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Normalized, Normalizer, NormLayer, PartState
from adapters.functional.moments import channel_moments, source_normalize
from adapters.options import Options, option


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """What is measured on the way."""

    measure: bool = option(False, "measure drift in every norm layer, not in the first two alone")


class SourceStatistics(Normalizer[PartState]):
    """Normalise by the running statistics of training, as the frozen model does.

    Remembers: nothing.
    Needs: nothing; works on every model, an ONNX graph too.
    Reference: Ioffe and Szegedy, Batch Normalization, ICML 2015 (inference form).

    Example:
        >>> from adapters import create
        >>> str(create("source").spec)
        'source'
    """

    name = "source"
    paper = "Ioffe, Szegedy: Batch Normalization, ICML 2015"
    remembers = "nothing"
    options_class = SourceOptions
    options: SourceOptions

    def handles(self, layer: NormLayer) -> bool:
        """Leave every layer with its source statistics, unless they are to be measured."""
        return self.options.measure

    def init(self, layer: NormLayer, generator: torch.Generator) -> PartState:
        """Return the empty state."""
        return PartState()

    def observe(self, layer: NormLayer, state: PartState, x: Tensor) -> tuple[Normalized, PartState]:
        """Normalise x (N, C, ...) by the source statistics."""
        return self.forward(layer, state, x), state

    def forward(self, layer: NormLayer, state: PartState, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by the source statistics, and measure its own."""
        return Normalized(source_normalize(layer, x), channel_moments(x.detach()))
