"""NOTE's instance-aware batch norm: corrects shared statistics for images that deviate more than chance explains."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapters.base import Needs, Normalizer, NormLayer
from adapters.functional.moments import batch_share, channel_moments, instance_moments, normalize, pooled
from adapters.options import Options, option
from adapters.values import Moments, Normalized


@dataclass(frozen=True, kw_only=True)
class IABNOptions(Options):
    """The size of a chance deviation, and how fast the running statistics follow the stream."""

    k: float = option(4.0, "deviations up to this many standard errors count as chance", low=0.0, high=1000.0)
    momentum: float = option(0.01, "share of the newest batch in the running statistics", low=0.0, high=1.0)
    shared: Literal["batch", "running"] = option(
        "batch", "statistics that observed images are corrected from: those of their batch, or the running ones"
    )
    full_batch: int | None = option(
        None, "batch size at which momentum applies; smaller batches move less; none: the same for all sizes", low=1
    )


class InstanceAwareBatchNorm(Normalizer[Moments]):
    """Normalise each image by shared statistics, shifted by the part of its deviation beyond k standard errors.

    The learner `note` answers from the running statistics, so that answers do not depend on batch mates. A model that
    was trained with plain batch norm answers differently once it is converted to this layer, often better under shift:
    report its results as "NOTE (converted)", since the paper's figures need training with this layer. Maps with one
    position keep the shared statistics. With `shared="running"` (ours) it also works without the learner `note`, and
    for single images: each image is corrected from the running statistics, which then move.

    Remembers: mean and variance per channel.
    Needs: batch-norm layers over maps.
    Reference: Gong et al., NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation, NeurIPS 2022
        (eqs. 3-6).

    Example:
        >>> from adapters import create
        >>> create("note_iabn").normalizer.options.k
        4.0
    """

    name = "note_iabn"
    paper = "Gong et al.: NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation, NeurIPS 2022"
    remembers = "running mean and variance, per channel"
    needs = Needs(batch_norm=True)
    spatial_only = True
    options_class = IABNOptions
    options: IABNOptions

    @property
    def independent(self) -> bool:
        """True if images are corrected from the running statistics (`shared="running"`)."""
        return self.options.shared == "running"

    def init(self, layer: NormLayer, generator: torch.Generator) -> Moments:
        """Return the source statistics."""
        return Moments(layer.mean, layer.var)

    def observe(self, layer: NormLayer, state: Moments, x: Tensor) -> tuple[Normalized, Moments]:
        """Normalise x (N, C, H, W) with the statistics that `shared` selects; move the running ones towards x."""
        count = x.numel() // x.shape[1]
        if count < 2:
            return self.forward(layer, state, x), state
        seen = channel_moments(x)
        shared = Moments(seen.mean, seen.var * (count / (count - 1)))
        share = batch_share(self.options.momentum, x.shape[0], self.options.full_batch)
        moved = Moments(
            state.mean.lerp(shared.mean.detach(), share),
            state.var.lerp(shared.var.detach(), share),
        )
        return self._corrected(layer, shared if self.options.shared == "batch" else state, x), moved

    def forward(self, layer: NormLayer, state: Moments, x: Tensor) -> Normalized:
        """Normalise x (N, C, H, W) with the running statistics as the shared ones."""
        return self._corrected(layer, Moments(state.mean, state.var), x)

    def _corrected(self, layer: NormLayer, shared: Moments, x: Tensor) -> Normalized:
        positions = x[0, 0].numel()
        if positions < 2:
            return Normalized(normalize(x, shared.mean, shared.var, layer.weight, layer.bias, layer.eps), None)
        own = instance_moments(x)
        k, eps, batch = self.options.k, layer.eps, pooled(Moments(own.mean.detach(), own.var.detach()))
        mean_error = k * ((shared.var + eps) / positions).sqrt()
        var_error = k * (shared.var + eps) * (2 / (positions - 1)) ** 0.5
        mean = shared.mean + _beyond(own.mean - shared.mean, mean_error)
        unbiased = own.var * (positions / (positions - 1))
        var = (shared.var + _beyond(unbiased - shared.var, var_error)).clamp_min(0)
        return Normalized(normalize(x, mean, var, layer.weight, layer.bias, eps), batch)


def _beyond(deviation: Tensor, chance: Tensor) -> Tensor:
    """Return the part of a deviation that exceeds chance (soft shrinkage)."""
    return deviation.sign() * (deviation.abs() - chance).clamp_min(0)
