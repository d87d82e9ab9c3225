"""What a served model is like on source data: what monitors and guards compare a stream with."""

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
    """The labelled source images that forgetting is measured on.

    Attributes:
        images: (N, C, H, W) uint8, 0 to 255 over the value range; in a fixed order, its classes mixed.
        labels: (N,) int64.
        value_range: Least and greatest value of an input.
    """

    images: Tensor
    labels: Tensor
    value_range: tuple[float, float]

    @property
    def chunks(self) -> int:
        """How many batches it is answered in."""
        return -(-len(self.labels) // USUAL_BATCH)

    def chunk(self, number: int) -> tuple[Tensor, Tensor]:
        """Return inputs (n, C, H, W) and labels (n,) of a batch of up to 64 images."""
        rows = slice(number * USUAL_BATCH, (number + 1) * USUAL_BATCH)
        return as_inputs(self.images[rows], self.value_range), self.labels[rows]


@dataclass(frozen=True)
class Reference:
    """The source model on source data.

    Attributes:
        prior: (C,) shares of the classes; equal ones where the bundle does not say.
        entropies: Quantiles of the entropy of its answers in nats, or None where the bundle does not say.
        calibration: What accuracy is estimated from, or None without a probe set.
        probe: The probe set, or None.
        features: (N, d) the source model's features of it, or None.
        usual_distance: Norm-statistics distance that 99 % of its images stay below, each alone, or None.
    """

    prior: Tensor
    entropies: Tensor | None
    calibration: Calibration | None
    probe: Probe | None
    features: Tensor | None = None
    usual_distance: float | None = None


def reference_of(source: SourceModel, watch: Watch) -> Reference:
    """Read a model's source artefacts, and answer its probe set once."""
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
    """Return an order (N,) in which every batch has about equal shares of the classes: round after round of them."""
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
    """Return the distance that 99 % of the images stay below; None where no layer measures images alone."""
    alone = torch.cat([look.alone for look in looks]) if looks else torch.empty(0)
    return float(alone.quantile(0.99)) if len(alone) else None
