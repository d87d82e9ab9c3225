"""Source statistics: the frozen model's own normalisation."""

import torch
from torch import Tensor

from adapters.base import Normalizer, NormLayer
from adapters.functional.moments import source_normalize
from adapters.values import Normalized, PartState


class SourceStatistics(Normalizer[PartState]):
    """Normalise by the running statistics of training, as the frozen model does.

    Remembers: nothing.
    Needs: nothing; works on every model, including ONNX graphs.
    Reference: Ioffe and Szegedy, Batch Normalization, ICML 2015 (inference form).

    Example:
        >>> from adapters import create
        >>> str(create("source").spec)
        'source'
    """

    name = "source"
    paper = "Ioffe, Szegedy: Batch Normalization, ICML 2015"
    remembers = "nothing"

    @property
    def independent(self) -> bool:
        """True: source statistics are the same for all images."""
        return True

    def handles(self, layer: NormLayer) -> bool:
        """Return False: every layer keeps its source statistics."""
        return False

    def init(self, layer: NormLayer, generator: torch.Generator) -> PartState:
        """Return the empty state."""
        return PartState()

    def observe(self, layer: NormLayer, state: PartState, x: Tensor) -> tuple[Normalized, PartState]:
        """Normalise x (N, C, ...) by the source statistics."""
        return self.forward(layer, state, x), state

    def forward(self, layer: NormLayer, state: PartState, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by the source statistics."""
        return Normalized(source_normalize(layer, x), None)
