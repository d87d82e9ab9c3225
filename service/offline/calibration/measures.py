"""Statistics of the source model on source images that do not depend on the adapter: reference, features, entropy."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from adapters import SourceImages, SourceModel, pipeline
from adapters.errors import UnfitModelError
from adapters.functional.entropy import entropy_of_logits
from adapters.network.reference_pass import measure_reference
from adapters.source import USUAL_BATCH, as_inputs
from adapters.values import Forward

QUANTILES = 1001

Measure = Callable[[SourceModel, SourceImages, Callable[[float], None]], Mapping[str, Tensor]]
"""Computes tensors from a model and source images. It reports progress to a callback, as shares that add up to 1."""


def reference(source: SourceModel, data: SourceImages, advance: Callable[[float], None]) -> dict[str, Tensor]:
    """Return `<layer>.mean` and `<layer>.var` (C,) of each batch-norm layer's inputs.

    Raises:
        UnfitModelError: If the model has no batch norm with running statistics.
    """
    if source.opaque:
        raise UnfitModelError(source.opaque)
    if not source.has_batch_norm:
        raise UnfitModelError("the model has no batch norm with running statistics that could be replaced")
    return measure_reference(source, _inputs(data, advance))


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
    for x in _inputs(data, advance):
        with torch.no_grad():
            yield net.forward({}, net.initial_norm, x)


def _inputs(data: SourceImages, advance: Callable[[float], None]) -> Iterator[Tensor]:
    """Yield all images as inputs (N, *input_shape), and report each batch once it has been used."""
    for images in torch.split(data.images, USUAL_BATCH):
        yield as_inputs(images, data.value_range)
        advance(len(images) / len(data.images))
