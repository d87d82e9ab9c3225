"""Moving statistics: running means and variances that follow the stream."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Needs, Normalizer, NormLayer
from adapters.functional.affine import batch_normalized
from adapters.functional.moments import batch_share, normalize
from adapters.options import Options, option
from adapters.values import Moments, Normalized


@dataclass(frozen=True, kw_only=True)
class EMAOptions(Options):
    """How fast the running statistics follow the stream."""

    momentum: float = option(0.1, "share of the newest batch in the running statistics", low=0.0, high=1.0)
    full_batch: int | None = option(
        None, "batch size at which momentum applies; smaller batches move less; none: the same for all sizes", low=1
    )


class EMAStatistics(Normalizer[Moments]):
    """Move the running statistics towards each batch, then answer with the updated ones.

    Two passes, as in the benchmark's norm_ema: the first normalises by the batch (so that deeper layers see adapted
    inputs) and updates the statistics, the second answers. `full_batch` makes single images move them little.

    Remembers: mean and variance per channel.
    Needs: batch-norm layers; batches of more than one image if maps have one position.
    Reference: Schneider et al., NeurIPS 2020; `norm_ema` of the field's shared benchmark.

    Example:
        >>> from adapters import create
        >>> create("ema").normalizer.rereads
        True
    """

    name = "ema"
    paper = (
        "Schneider et al.: Improving robustness against common corruptions by covariate shift adaptation, NeurIPS 2020"
    )
    remembers = "running mean and variance, per channel"
    needs = Needs(batch_norm=True)
    rereads = True
    options_class = EMAOptions
    options: EMAOptions

    @property
    def independent(self) -> bool:
        """True: the second pass reads the updated statistics only."""
        return True

    def init(self, layer: NormLayer, generator: torch.Generator) -> Moments:
        """Return the source statistics."""
        return Moments(layer.mean, layer.var)

    def observe(self, layer: NormLayer, state: Moments, x: Tensor) -> tuple[Normalized, Moments]:
        """Normalise x (N, C, ...) by its own statistics and move the running ones towards them."""
        y, mean, var = batch_normalized(x, layer.weight, layer.bias, layer.eps)
        count = x.numel() // x.shape[1]
        unbiased = var * (count / (count - 1)) if count > 1 else layer.var
        share = batch_share(self.options.momentum, x.shape[0], self.options.full_batch)
        moved = Moments(state.mean.lerp(mean, share), state.var.lerp(unbiased, share))
        return Normalized(y, Moments(mean, var)), moved

    def forward(self, layer: NormLayer, state: Moments, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by the running statistics."""
        return Normalized(normalize(x, state.mean, state.var, layer.weight, layer.bias, layer.eps), None)
