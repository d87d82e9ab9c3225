"""What a selector knows of a stream: monitors of its requests, of the answers, and of what the frozen model finds."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.monitors import label_correlation, label_runs, moving_mean, page_hinkley
from adapters.monitors.label_correlation import CorrelationState
from adapters.monitors.label_runs import RunsState
from adapters.monitors.moving_mean import MeanState
from adapters.monitors.page_hinkley import PageHinkleyOptions, PageHinkleyState
from adapters.network.source_observer import UNTOLD, Look
from adapters.values import PartState

LEAST_DISTANCE = 1e-6


@dataclass(frozen=True)
class Diagnosis(PartState):
    """What is known of a stream.

    Attributes:
        batch: Mean images per request.
        runs: Predicted labels of neighbours.
        correlation: Answers of neighbours.
        distance: () as in the last look; -1 before any.
        last: () the last image's own distance; -1 before any.
        roughness: Mean difference of that distance's logarithm from image to image.
        entropy: Mean entropy of the frozen model's answers, nats.
        detector: Page-Hinkley on the logarithm of the distance.
        unheard: () int64 images looked at since the detector was last told the distance.
        images: () int64 images since the start or the last drift event.
        undecided: () whether a decision is due.
        events: () int64 drift events so far.
    """

    batch: MeanState
    runs: RunsState
    correlation: CorrelationState
    distance: Tensor
    last: Tensor
    roughness: MeanState
    entropy: MeanState
    detector: PageHinkleyState
    unheard: Tensor
    images: Tensor
    undecided: Tensor
    events: Tensor


@dataclass(frozen=True)
class Situation:
    """A diagnosis in plain numbers.

    Attributes:
        batch: Mean images per request.
        distance: Norm-statistics distance from the source; None where it cannot be told.
        roughness: Mean difference of the distance's logarithm from image to image.
        entropy: Mean entropy of the frozen model's answers, as a share of ln(classes).
        correlation: Mean correlation of answers with those shortly before.
        run_length: Mean run of equal predicted labels.
    """

    batch: float
    distance: float | None
    roughness: float
    entropy: float
    correlation: float
    run_length: float

    def __str__(self) -> str:
        distance = "unknown" if self.distance is None else f"{self.distance:.3f}"
        return (
            f"batches of {self.batch:.0f}, runs of {self.run_length:.1f} equal labels (correlation "
            f"{self.correlation:+.2f}), norm statistics {distance} from the source's ("
            f"{self.roughness:.2f} from image to image), the frozen model's entropy {self.entropy:.2f} of ln(classes)"
        )


def init(classes: int) -> Diagnosis:
    """Return what is known before any request."""
    zero, mean = torch.zeros((), dtype=torch.int64), moving_mean.init()
    return Diagnosis(
        batch=mean,
        runs=label_runs.init(),
        correlation=label_correlation.init(classes),
        distance=torch.tensor(UNTOLD),
        last=torch.tensor(UNTOLD),
        roughness=mean,
        entropy=mean,
        detector=page_hinkley.init(),
        unheard=zero,
        images=zero,
        undecided=torch.tensor(True),
        events=zero,
    )


def answered(known: Diagnosis, probabilities: Tensor) -> Diagnosis:
    """Take in the probabilities (N, C) that a request was answered with."""
    images = len(probabilities)
    return replace(
        known,
        batch=moving_mean.update(known.batch, torch.tensor(float(images)), images),
        runs=label_runs.update(known.runs, probabilities.argmax(1)),
        correlation=label_correlation.update(known.correlation, probabilities),
        images=known.images + images,
    )


def looked(known: Diagnosis, look: Look, images: int, options: PageHinkleyOptions, told_after: int) -> Diagnosis:
    """Take in a look at a request of some images, already answered; the detector hears of each `told_after` images.

    After a drift event what earlier looks found no longer counts, and a decision is due.
    """
    unheard = known.unheard + images
    enough = unheard >= told_after
    told = torch.where(enough, _logarithm(look.distance), torch.nan)
    detector, verdict = page_hinkley.update(known.detector, told, options)
    before = known
    if verdict.changed:
        known = replace(known, correlation=label_correlation.init(len(known.correlation.shares)))
        before = replace(known, last=torch.tensor(UNTOLD), roughness=moving_mean.init(), entropy=moving_mean.init())
    chain = torch.cat([before.last[None], look.alone])
    changes = _logarithm(chain).diff().abs()
    return replace(
        known,
        distance=_where_told(look.distance, known.distance),
        last=_where_told(chain[-1], before.last),
        roughness=moving_mean.update(before.roughness, changes.nanmean(), images),
        entropy=moving_mean.update(before.entropy, look.entropy, images),
        detector=detector,
        unheard=torch.where(enough, 0, unheard),
        images=torch.zeros_like(known.images) if verdict.changed else known.images,
        undecided=known.undecided | verdict.changed,
        events=known.events + verdict.changed,
    )


def situation_of(known: Diagnosis) -> Situation:
    """Return a diagnosis in plain numbers."""
    distance = float(known.distance)
    return Situation(
        batch=float(known.batch.mean),
        distance=None if distance < 0 else distance,
        roughness=float(known.roughness.mean),
        entropy=float(known.entropy.mean) / float(torch.tensor(len(known.correlation.shares)).log()),
        correlation=float(label_correlation.correlation(known.correlation)),
        run_length=float(label_runs.run_length(known.runs)),
    )


def _logarithm(distance: Tensor) -> Tensor:
    return torch.where(distance >= 0, distance.clamp_min(LEAST_DISTANCE).log(), torch.nan)


def _where_told(distance: Tensor, before: Tensor) -> Tensor:
    return torch.where(torch.isfinite(distance) & (distance >= 0), distance, before)
