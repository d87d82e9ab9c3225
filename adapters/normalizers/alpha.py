"""Alpha statistics: source statistics mixed with the batch's own."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapters.base import Needs, Normalizer, NormLayer
from adapters.functional.moments import channel_moments, instance_moments, normalize, pooled, source_normalize
from adapters.options import Options, option
from adapters.values import Moments, Normalized, PartState


@dataclass(frozen=True, kw_only=True)
class AlphaOptions(Options):
    """The share of the new statistics in the mix, and where they come from."""

    alpha: float = option(0.1, "share of the new statistics; the rest is the source's", low=0.0, high=1.0)
    of: Literal["batch", "image"] = option("batch", "take new statistics over the whole batch, or over each image")


class AlphaStatistics(Normalizer[PartState]):
    """Normalise by (1 - alpha) source + alpha own statistics (unbiased variance): a careful choice for small batches.

    With `of="image"` answers do not depend on batch mates; for a single image the two forms are the same. With fewer
    than two values per channel there is no variance to estimate, so the source statistics are used; with `of="image"`
    this includes all inputs without positions (N, C).

    Remembers: nothing.
    Needs: batch-norm layers.
    Reference: Schneider et al., Improving robustness against common corruptions by covariate shift adaptation,
        NeurIPS 2020; `norm_alpha` of the field's shared benchmark, which mixes in the batch's statistics.

    Example:
        >>> from adapters import create
        >>> create("alpha", alpha={"alpha": 0.2}).normalizer.options.alpha
        0.2
    """

    name = "alpha"
    paper = (
        "Schneider et al.: Improving robustness against common corruptions by covariate shift adaptation, NeurIPS 2020"
    )
    remembers = "nothing"
    needs = Needs(batch_norm=True)
    options_class = AlphaOptions
    options: AlphaOptions

    @property
    def independent(self) -> bool:
        """True if each image is normalised by its own statistics (`of="image"`)."""
        return self.options.of == "image"

    def init(self, layer: NormLayer, generator: torch.Generator) -> PartState:
        """Return the empty state."""
        return PartState()

    def observe(self, layer: NormLayer, state: PartState, x: Tensor) -> tuple[Normalized, PartState]:
        """Normalise x (N, C, ...) by the mixed statistics."""
        return self.forward(layer, state, x), state

    def forward(self, layer: NormLayer, state: PartState, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by the mixed statistics."""
        return self._mixed(layer, x, per_image=self.options.of == "image")

    def held(self, layer: NormLayer, state: PartState, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) image by image, so that answers do not depend on batch mates."""
        return self._mixed(layer, x, per_image=True)

    def _mixed(self, layer: NormLayer, x: Tensor, *, per_image: bool) -> Normalized:
        count = x[0, 0].numel() if per_image else x.numel() // x.shape[1]
        if count < 2:
            return Normalized(source_normalize(layer, x), None)
        own = instance_moments(x) if per_image else channel_moments(x)
        mean = layer.mean.lerp(own.mean, self.options.alpha)
        var = layer.var.lerp(own.var * (count / (count - 1)), self.options.alpha)
        seen = Moments(own.mean.detach(), own.var.detach())
        return Normalized(
            normalize(x, mean, var, layer.weight, layer.bias, layer.eps), pooled(seen) if per_image else seen
        )
