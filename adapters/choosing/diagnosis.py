"""A selector's measurements of a stream: monitors of requests, of answers and of the frozen model's observations."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.monitors import label_correlation, label_runs, moving_mean, page_hinkley
from adapters.monitors.label_correlation import CorrelationState
from adapters.monitors.label_runs import RunsState
from adapters.monitors.moving_mean import MeanState
from adapters.monitors.page_hinkley import PageHinkleyOptions, PageHinkleyState
from adapters.network.source_observer import UNKNOWN, Look
from adapters.values import PartState

LEAST_DISTANCE = 1e-6


@dataclass(frozen=True)
class Diagnosis(PartState):
    """Measurements of a stream.

    Attributes:
        batch: Mean number of images per request.
        runs: Runs of equal predicted labels.
        correlation: Correlation of successive answers.
        distance: () distance in the last observation; -1 before any.
        last: () distance of the last image alone; -1 before any.
        roughness: Mean change of the log distance of single images from image to image.
        entropy: Mean entropy of the frozen model's answers, nats.
        detector: Page-Hinkley on the log distance.
        unheard: () int64 images observed since the detector last got a value.
        images: () int64 images since the start or the last drift event.
        undecided: () bool, a decision is due.
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
        batch: Mean number of images per request.
        distance: Norm-statistics distance from the source; None if it is unknown.
        roughness: Mean change of the log distance from image to image.
        entropy: Mean entropy of the frozen model's answers, as a share of ln(classes).
        correlation: Mean correlation of answers with the preceding ones.
        run_length: Mean length of runs of equal predicted labels.
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
    """Return the diagnosis before any request."""
    zero, mean = torch.zeros((), dtype=torch.int64), moving_mean.init()
    return Diagnosis(
        batch=mean,
        runs=label_runs.init(),
        correlation=label_correlation.init(classes),
        distance=torch.tensor(UNKNOWN),
        last=torch.tensor(UNKNOWN),
        roughness=mean,
        entropy=mean,
        detector=page_hinkley.init(),
        unheard=zero,
        images=zero,
        undecided=torch.tensor(True),
        events=zero,
    )


def answered(before: Diagnosis, probabilities: Tensor) -> Diagnosis:
    """Update the diagnosis with a request's answers, probabilities (N, C)."""
    images = len(probabilities)
    return replace(
        before,
        batch=moving_mean.update(before.batch, torch.tensor(float(images)), images),
        runs=label_runs.update(before.runs, probabilities.argmax(1)),
        correlation=label_correlation.update(before.correlation, probabilities),
        images=before.images + images,
    )


def looked(before: Diagnosis, look: Look, images: int, options: PageHinkleyOptions, detect_every: int) -> Diagnosis:
    """Update the diagnosis with the frozen model's observation of a request, whose answers are already in it.

    A drift event discards earlier observations and makes a decision due.

    Args:
        before: The diagnosis with the request's answers.
        look: The observation.
        images: Number of images in the request.
        options: Options of the drift detector.
        detect_every: The detector gets one value per this many observed images.
    """
    unheard = before.unheard + images
    due = unheard >= detect_every
    value = torch.where(due, _logarithm(look.distance), torch.nan)
    detector, verdict = page_hinkley.update(before.detector, value, options)
    base = before
    if verdict.changed:
        before = replace(before, correlation=label_correlation.init(len(before.correlation.shares)))
        base = replace(before, last=torch.tensor(UNKNOWN), roughness=moving_mean.init(), entropy=moving_mean.init())
    chain = torch.cat([base.last[None], look.alone])
    changes = _logarithm(chain).diff().abs()
    return replace(
        before,
        distance=_where_known(look.distance, before.distance),
        last=_where_known(chain[-1], base.last),
        roughness=moving_mean.update(base.roughness, changes.nanmean(), images),
        entropy=moving_mean.update(base.entropy, look.entropy, images),
        detector=detector,
        unheard=torch.where(due, 0, unheard),
        images=torch.zeros_like(before.images) if verdict.changed else before.images,
        undecided=before.undecided | verdict.changed,
        events=before.events + verdict.changed,
    )


def situation_of(found: Diagnosis) -> Situation:
    """Return a diagnosis in plain numbers."""
    distance = float(found.distance)
    return Situation(
        batch=float(found.batch.mean),
        distance=None if distance < 0 else distance,
        roughness=float(found.roughness.mean),
        entropy=float(found.entropy.mean) / float(torch.tensor(len(found.correlation.shares)).log()),
        correlation=float(label_correlation.correlation(found.correlation)),
        run_length=float(label_runs.run_length(found.runs)),
    )


def _logarithm(distance: Tensor) -> Tensor:
    return torch.where(distance >= 0, distance.clamp_min(LEAST_DISTANCE).log(), torch.nan)


def _where_known(distance: Tensor, before: Tensor) -> Tensor:
    return torch.where(torch.isfinite(distance) & (distance >= 0), distance, before)
