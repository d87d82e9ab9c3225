"""What is measured of the source model on source images, whatever the adapter: features and entropy."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from adapters import SourceImages, SourceModel, pipeline
from adapters.functional.entropy import entropy_of_logits
from adapters.source import USUAL_BATCH, as_inputs
from adapters.values import Forward

QUANTILES = 1001

Measure = Callable[[SourceModel, SourceImages, Callable[[float], None]], Mapping[str, Tensor]]
"""Makes tensors from a model and source images; is told where to report each share of the work, in all 1."""


def features(source: SourceModel, data: SourceImages, advance: Callable[[float], None]) -> dict[str, Tensor]:
    """Return the biased `mean` and `var` (d,) of source features; with labels `class_means` (C, d) too.

    A class without images has zeros, and 0 in `class_counts` (C,).
    """
    seen = torch.cat([forward.features.double() for forward in _passes(source, data, advance)])
    made = {"mean": seen.mean(0).float(), "var": seen.var(0, correction=0).float()}
    if not len(data.labels):
        return made
    counts = data.labels.bincount(minlength=source.classes)
    sums = seen.new_zeros(source.classes, seen.shape[1]).index_add(0, data.labels, seen)
    return {**made, "class_means": (sums / counts.clamp_min(1)[:, None]).float(), "class_counts": counts}


def entropy(source: SourceModel, data: SourceImages, advance: Callable[[float], None]) -> dict[str, Tensor]:
    """Return what is usual of the source model's answers on source images.

    `quantiles` (1001,) of the entropy in nats, from the least to the greatest, its `mean` and `std` (), and the mean
    `confidence` (), the probability of the answered class.
    """
    logits = torch.cat([forward.logits.double() for forward in _passes(source, data, advance)])
    entropies = entropy_of_logits(logits)
    return {
        "quantiles": entropies.quantile(torch.linspace(0, 1, QUANTILES, dtype=torch.float64)).float(),
        "mean": entropies.mean().float(),
        "std": entropies.std(correction=0).float(),
        "confidence": logits.softmax(1).amax(1).mean().float(),
    }


def _passes(source: SourceModel, data: SourceImages, advance: Callable[[float], None]) -> Iterator[Forward]:
    """Run the frozen source model over all images."""
    net = pipeline("source").prepare(source).net
    for images in torch.split(data.images, USUAL_BATCH):
        with torch.no_grad():
            yield net.forward({}, net.initial_norm, as_inputs(images, data.value_range))
        advance(len(images) / len(data.images))
