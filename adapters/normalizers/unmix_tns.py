"""UnMix-TNS: each norm layer's statistics unmixed into K components that the stream updates."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit

from adapters.base import Needs, Normalizer, NormLayer
from adapters.functional.moments import batch_share, instance_moments, normalize, pooled
from adapters.options import Options, option
from adapters.values import Moments, Normalized, PartState


@dataclass(frozen=True)
class Components(PartState):
    """Means and variances, (K, C) each, of a layer's components."""

    means: Tensor
    vars: Tensor


@dataclass(frozen=True, kw_only=True)
class UnmixTNSOptions(Options):
    """The number of components, their initial spread and how fast they follow the stream."""

    components: int = option(16, "K; the authors use 16, and 128 for mixed domains", low=1, high=1024)
    alpha: float = option(0.5, "share of the source variance between the initial components", low=0.0, high=1.0)
    temperature: float = option(0.07, "temperature of the softmax over components", low=1e-3, high=10.0)
    full_batch: int = option(64, "batch size at which components move by the layer's own momentum", low=1, high=65536)


class UnmixTNS(Normalizer[Components]):
    """Normalise each image by a mixture of K components, into which its own statistics are mixed by similarity.

    Made for label-correlated streams and for single images: an image's own statistics have a weight of only 1/K, and
    the components move with a momentum that depends on the actual batch size. Equations (computed by matmuls, without
    a tensor of shape (N, K, C)): p = softmax_k(cos(m, mu_k) / temperature); mixture mean and variance over k of
    ((1 - p_k) mu_k + p_k m); the components move by M mean_b p_bk (m_b - mu_k), M = 1 - (1 - momentum)^(N /
    full_batch). Batch norm over (N, C) inputs keeps the source statistics.

    Remembers: K means and variances per channel (K = 16: 32 numbers a channel).
    Needs: batch-norm layers over maps.
    Reference: Tomar et al., Un-Mixing Test-Time Normalization Statistics, ICLR 2024. As in its public code, the
        variance leaves out the cross term p (1 - p) (m - mu)^2.

    Example:
        >>> from adapters import create
        >>> create("unmix_tns", unmix_tns={"components": 128}).normalizer.options.components
        128
    """

    name = "unmix_tns"
    paper = "Tomar et al.: Un-Mixing Test-Time Normalization Statistics, ICLR 2024"
    remembers = "K component means and variances, per channel"
    needs = Needs(batch_norm=True)
    spatial_only = True
    options_class = UnmixTNSOptions
    options: UnmixTNSOptions

    @property
    def independent(self) -> bool:
        """True: each image is normalised by its own statistics and the components from before the batch."""
        return True

    def init(self, layer: NormLayer, generator: torch.Generator) -> Components:
        """Draw components whose mixture has the source's mean and variance in expectation."""
        k = self.options.components
        if k == 1:
            return Components(layer.mean[None].clone(), layer.var[None].clone())
        noise = torch.randn(k, layer.mean.numel(), generator=generator).to(layer.mean)
        spread = (self.options.alpha * k / (k - 1)) ** 0.5
        means = layer.mean + spread * layer.var.sqrt() * noise
        return Components(means, ((1 - self.options.alpha) * layer.var).expand(k, -1).clone())

    def observe(self, layer: NormLayer, state: Components, x: Tensor) -> tuple[Normalized, Components]:
        """Normalise x (N, C, H, W) and move the components towards its images."""
        own = instance_moments(x)
        p = self._assignment(own.mean.detach(), state)
        seen = Moments(own.mean.detach(), own.var.detach())
        return self._normalized(layer, state, x, own, p), self._moved(layer, state, seen, p)

    def forward(self, layer: NormLayer, state: Components, x: Tensor) -> Normalized:
        """Normalise x (N, C, H, W) by the components without moving them."""
        own = instance_moments(x)
        return self._normalized(layer, state, x, own, self._assignment(own.mean.detach(), state))

    def _assignment(self, mean: Tensor, state: Components) -> Tensor:
        """Return p (N, K): each component's similarity to the image as a softmax; no gradient flows through it."""
        return (unit(mean, dim=1) @ unit(state.means, dim=1).mT / self.options.temperature).softmax(1)

    def _normalized(self, layer: NormLayer, state: Components, x: Tensor, own: Moments, p: Tensor) -> Normalized:
        mixed = _mixture(state, own, p)
        batch = pooled(Moments(own.mean.detach(), own.var.detach()))
        return Normalized(normalize(x, mixed.mean, mixed.var, layer.weight, layer.bias, layer.eps), batch)

    def _moved(self, layer: NormLayer, state: Components, own: Moments, p: Tensor) -> Components:
        images = p.shape[0]
        momentum = batch_share(layer.momentum, images, self.options.full_batch)
        share = p.mean(0)[:, None]
        means = state.means + momentum * (p.mT @ own.mean / images - state.means * share)
        variances = state.vars + momentum * (p.mT @ own.var / images - state.vars * share)
        return Components(means, variances)


def _mixture(state: Components, own: Moments, p: Tensor) -> Moments:
    """Return mean and variance (N, C) of the equal mixture of ((1 - p_k) component_k + p_k image), by matmuls."""
    squares = state.means.square()
    share, share2 = p / len(state.means), p.square() / len(state.means)
    total, total2 = share.sum(1, keepdim=True), share2.sum(1, keepdim=True)
    of_means, of_vars, of_squares = share @ state.means, share @ state.vars, share @ squares
    twice_means, twice_squares = share2 @ state.means, share2 @ squares
    # First the terms without the image's own moments: no gradient flows through them.
    rest = (state.vars + squares).mean(0) - of_vars - 2 * of_squares + twice_squares
    mean = (state.means.mean(0) - of_means) + total * own.mean
    square = rest + total * own.var + own.mean * (2 * (of_means - twice_means) + total2 * own.mean)
    return Moments(mean, (square - mean.square()).clamp_min(0))
