"""Statistics of the source model on source images that do not depend on the adapter: features and entropy."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from adapters import SourceImages, SourceModel, pipeline
from adapters.functional.entropy import entropy_of_logits
from adapters.source import USUAL_BATCH, as_inputs
from adapters.values import Forward

QUANTILES = 1001

Measure = Callable[[SourceModel, SourceImages, Callable[[float], None]], Mapping[str, Tensor]]
"""Computes tensors from a model and source images. It reports progress to a callback, as shares that add up to 1."""


def features(source: SourceModel, data: SourceImages, advance: Callable[[float], None]) -> dict[str, Tensor]:
    """Return `mean` and biased `var` (d,) of the source features; with labels also `class_means` and `class_counts`.

    `class_means` is (C, d) and `class_counts` (C,). A class without images has zeros in both.
    """
    seen = torch.cat([forward.features.double() for forward in _passes(source, data, advance)])
    moments = {"mean": seen.mean(0).float(), "var": seen.var(0, correction=0).float()}
    if not len(data.labels):
        return moments
    counts = data.labels.bincount(minlength=source.classes)
    sums = seen.new_zeros(source.classes, seen.shape[1]).index_add(0, data.labels, seen)
    return {**moments, "class_means": (sums / counts.clamp_min(1)[:, None]).float(), "class_counts": counts}


def entropy(source: SourceModel, data: SourceImages, advance: Callable[[float], None]) -> dict[str, Tensor]:
    """Return statistics of the source model's answers on source images.

    They are `quantiles` (1001,) of the entropy in nats, from its minimum to its maximum; its `mean` and `std` (); and
    the mean `confidence` (), the probability of the answered class.
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
