"""Batch statistics: each batch is normalised by its own mean and variance."""

import torch
from torch import Tensor

from adapters.base import Needs, Normalizer, NormLayer
from adapters.functional.affine import batch_normalized
from adapters.functional.moments import normalize
from adapters.values import Moments, Normalized


class BatchStatistics(Normalizer[Moments]):
    """Normalise each batch by its own statistics (BN-adapt, also TENT's normalisation).

    The cheapest strong method if each batch is a fair sample of the classes; worse than no adaptation if batches are
    label-correlated or small. A single image is normalised by the statistics over its positions.

    Remembers: the last batch's mean and variance per channel, for answers that must not depend on their batch mates.
    Needs: batch-norm layers; useful from batches of 16 images.
    Reference: Nado et al., Evaluating Prediction-Time Batch Normalization, 2020; Schneider et al., NeurIPS 2020.

    Example:
        >>> from adapters import create
        >>> str(create("batch").spec)
        'batch'
    """

    name = "batch"
    paper = "Nado et al.: Evaluating Prediction-Time Batch Normalization for Robustness under Covariate Shift, 2020"
    remembers = "mean and variance of the last batch, per channel"
    needs = Needs(batch_norm=True)

    def init(self, layer: NormLayer, generator: torch.Generator) -> Moments:
        """Return the source statistics."""
        return Moments(layer.mean, layer.var)

    def observe(self, layer: NormLayer, state: Moments, x: Tensor) -> tuple[Normalized, Moments]:
        """Normalise x (N, C, ...) by its own statistics and remember them."""
        normalized = self.forward(layer, state, x)
        return normalized, normalized.moments or state

    def forward(self, layer: NormLayer, state: Moments, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by its own statistics."""
        y, mean, var = batch_normalized(x, layer.weight, layer.bias, layer.eps)
        return Normalized(y, Moments(mean, var))

    def held(self, layer: NormLayer, state: Moments, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by the last observed batch's statistics."""
        return Normalized(normalize(x, state.mean, state.var, layer.weight, layer.bias, layer.eps), None)
