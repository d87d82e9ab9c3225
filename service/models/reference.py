"""Statistics of a served model on source data, which monitors and guards compare a stream with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters import SourceModel
from adapters.monitors.accuracy import Calibration, calibrated
from adapters.network.source_observer import Look, Watch
from adapters.source import USUAL_BATCH, as_inputs

PROBE_IMAGES, PROBE_LABELS = "probe.images", "probe.labels"


@dataclass(frozen=True)
class Probe:
    """The probe set: labelled source images to measure forgetting on.

    Attributes:
        images: (N, C, H, W) uint8; 0 to 255 span the value range. The order is fixed and mixes the classes.
        labels: (N,) int64.
        value_range: Least and greatest value of an input.
    """

    images: Tensor
    labels: Tensor
    value_range: tuple[float, float]

    @property
    def chunks(self) -> int:
        """The number of batches that `chunk` cuts it into."""
        return -(-len(self.labels) // USUAL_BATCH)

    def chunk(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the inputs (n, C, H, W) and labels (n,) of a batch; n is at most 64."""
        rows = slice(number * USUAL_BATCH, (number + 1) * USUAL_BATCH)
        return as_inputs(self.images[rows], self.value_range), self.labels[rows]


@dataclass(frozen=True)
class Reference:
    """Statistics of the source model on source data.

    Attributes:
        prior: (C,) shares of the classes; equal shares if the bundle does not say.
        entropies: Quantiles of the entropy of its answers in nats; None if the bundle does not say.
        calibration: The calibration of the accuracy estimates; None without a probe set.
        probe: The probe set; None if the bundle has none.
        features: (N, d) the source model's features of the probe set; None without one.
        usual_distance: The norm-statistics distance that 99 % of the probe images, each alone, stay below; None if it
            is not known.
    """

    prior: Tensor
    entropies: Tensor | None
    calibration: Calibration | None
    probe: Probe | None
    features: Tensor | None = None
    usual_distance: float | None = None


def reference_of(source: SourceModel, watch: Watch) -> Reference:
    """Compute a model's reference from its source artefacts. It answers the probe set once."""
    artefacts = source.artefacts
    probe = None
    if PROBE_IMAGES in artefacts:
        order = _mixed(artefacts[PROBE_LABELS])
        probe = Probe(artefacts[PROBE_IMAGES][order], artefacts[PROBE_LABELS][order], source.value_range)
    chunks = range(0 if probe is None else probe.chunks)
    looks = [watch.look(watch.initial, probe.chunk(number)[0])[0] for number in chunks if probe is not None]
    return Reference(
        prior=_prior(source),
        entropies=artefacts.get("entropy.quantiles"),
        calibration=None if probe is None else _calibration(looks, probe),
        probe=probe,
        features=torch.cat([look.features for look in looks]) if looks else None,
        usual_distance=_usual_distance(looks),
    )


def _mixed(labels: Tensor) -> Tensor:
    """Return an order (N,) that takes one image of each class in turn, so that all batches have similar classes."""
    rounds = torch.zeros_like(labels)
    for label in range(int(labels.max()) + 1):
        rows = labels == label
        rounds[rows] = torch.arange(int(rows.sum()))
    return torch.argsort(rounds * (int(labels.max()) + 1) + labels, stable=True)


def _prior(source: SourceModel) -> Tensor:
    counts = source.artefacts.get("features.class_counts")
    if counts is None or not float(counts.sum()):
        return torch.full((source.classes,), 1 / source.classes)
    return counts.float() / counts.sum()


def _calibration(looks: Sequence[Look], probe: Probe) -> Calibration:
    return calibrated(torch.cat([look.logits.softmax(1) for look in looks]), probe.labels)


def _usual_distance(looks: Sequence[Look]) -> float | None:
    """Return the distance that 99 % of the images stay below; None if no layer measures single images."""
    alone = torch.cat([look.alone for look in looks]) if looks else torch.empty(0)
    return float(alone.quantile(0.99)) if len(alone) else None
