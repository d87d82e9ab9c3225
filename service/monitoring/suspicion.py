"""Evidence that a stream answers worse than its source model would. It is updated at every look, and part of the state.

Each look is one bet, however many images it holds, since the images of one request may be copies of each other.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.monitors import accuracy, moving_mean
from adapters.monitors.accuracy import Calibration
from adapters.monitors.moving_mean import MeanState
from adapters.values import PartState
from service.monitoring.detectors import Alarm

SHARPNESS = 5.0
"""Certainty is 0 up to a source confidence of 1 - 1 / SHARPNESS, and rises linearly to 1 at full confidence."""
TOLERATED = 0.25
"""Harmless share of confidently contradicted images. Streams that adapted well to the demo's corruptions stayed
below it."""
CONTRADICTION_ALPHA = 1e-6
"""Rate of false alarms per look, as long as the mean share of contradicted images is at most TOLERATED."""
CONTRADICTION_BET = 2.0
"""Stake on the excess over TOLERATED: a look at one contradicted image multiplies the evidence by 2.5, and a look at
one image that is not contradicted halves it."""
FAR = 0.2
"""Fall of the agreement that counts: an alarm means that it is further than this below its own past."""
FALL_ALPHA = 1e-4
"""Rate of false alarms per look, as long as the agreement is at most FAR below its past."""
FALL_BET = 1.5
MEMORY = 16
"""Time constant of the recent means, in looks."""
PAST = 64
"""Time constant of the usual agreement, in looks."""
ENOUGH = 4
"""Minimum looks before the agreement has a past, and before the recent means count."""
HURRY = math.log(3.0)
"""Log evidence that makes the source model look at every request."""
HOME = 0.1
"""Largest drop of the source model's estimated accuracy, against its own data, at which it is still believed."""
SURE = 0.9
"""Minimum mean confidence of a source model that is believed, if no probe set gives its accuracy on its own data."""
LOWER = 0.2
"""Minimum gap between the estimated accuracies of the source model and of the stream. The uncertainty of the recent
means comes on top."""
UNUSUAL = 0.05
"""Greatest share of images with unusual statistics at which the inputs still count as the source's own. Among source
images it is 1 in 100. Among mixed corruptions it was 1 in 8 or more, even with usual pooled statistics."""
UNUSUAL_MEMORY = 64
"""Time constant of that share, in images."""


@dataclass(frozen=True)
class SuspicionState(PartState):
    """The evidence against a stream.

    Attributes:
        looks: () int64 looks since the stream began.
        contradiction: Recent share of confidently contradicted images.
        evidence: () float64 log(1 + evidence) that this share is above TOLERATED.
        usual: Agreement in the past.
        agreement: Recent agreement.
        fall: () float64 log(1 + evidence) that the agreement is far below its past.
        before: () float64 the agreement before it fell; -1 while it has not.
        own_accuracy: Recent accuracy of the stream, estimated from its own answers.
        source_accuracy: Recent accuracy of the source model, estimated from its answers to the same images.
        unusual: Recent share of images whose own norm statistics are unusual for the source.
    """

    looks: Tensor
    contradiction: MeanState
    evidence: Tensor
    usual: MeanState
    agreement: MeanState
    fall: Tensor
    before: Tensor
    own_accuracy: MeanState
    source_accuracy: MeanState
    unusual: MeanState


@dataclass(frozen=True, slots=True)
class Compared:
    """Answers of the source model and the stream to the same n images of one look, all finite.

    Attributes:
        source, answers: (n, C) probabilities.
        alone: (n,) distance of each image's norm statistics from the source's; empty if unknown.
        usual_distance: The 99 % quantile of that distance over the source's own images; None if unknown.
        calibration: The calibration of accuracy estimates, or None.
    """

    source: Tensor
    answers: Tensor
    alone: Tensor
    usual_distance: float | None
    calibration: Calibration | None


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Why a stream is suspected to be worse than its source model: a word for metrics, a sentence for people."""

    cause: str = ""
    reason: str = ""


NONE = Suspicion()
CAUSES = ("contradiction", "agreement", "accuracy", "source_gap")


def init() -> SuspicionState:
    """Return the state before any look."""
    mean, zero = moving_mean.init(), torch.zeros((), dtype=torch.float64)
    return SuspicionState(
        looks=torch.zeros((), dtype=torch.int64),
        contradiction=mean,
        evidence=zero,
        usual=mean,
        agreement=mean,
        fall=zero,
        before=zero - 1,
        own_accuracy=mean,
        source_accuracy=mean,
        unusual=mean,
    )


def begun_again(state: SuspicionState) -> SuspicionState:
    """Return the state after a reset or rollback. The past agreement and the share of unusual inputs stay."""
    return replace(init(), looks=state.looks, usual=state.usual, unusual=state.unusual)


def update(state: SuspicionState, seen: Compared) -> tuple[SuspicionState, Alarm | None]:
    """Return the state after one look, and an alarm if the agreement has fallen far below its past."""
    contradicted = float(_contradicted(seen).mean())
    agreement = float((seen.source.argmax(1) == seen.answers.argmax(1)).float().mean())
    evidence = _evidence(float(state.evidence), 1 + CONTRADICTION_BET * (contradicted - TOLERATED))
    moved = replace(
        state,
        looks=state.looks + 1,
        contradiction=_recent(state.contradiction, contradicted),
        # Bounded, so that the evidence falls soon after a contradiction ends.
        evidence=_scalar(min(evidence, -math.log(CONTRADICTION_ALPHA) + 1)),
        agreement=_recent(state.agreement, agreement),
        own_accuracy=_recent(state.own_accuracy, _estimate(seen.answers, seen.calibration)),
        source_accuracy=_recent(state.source_accuracy, _estimate(seen.source, seen.calibration)),
        unusual=moving_mean.update(state.unusual, _unusual(seen).float().mean(), len(seen.source), UNUSUAL_MEMORY),
    )
    return _compared_with_past(moved, agreement)


def contradicts(state: SuspicionState, returns: float = 0.0) -> str:
    """Describe a lasting contradiction of a confident source model; "" if there is none.

    `returns` is the decaying count of recent guard actions. At 1 or more, half of the logarithm of the evidence is
    enough: one false alarm in a thousand looks.
    """
    if float(state.evidence) <= -math.log(CONTRADICTION_ALPHA) / (1 + min(returns, 1.0)):
        return ""
    share = 100 * float(state.contradiction.mean)
    return f"the stream contradicts a confident source model on {share:.0f} % of the latest images it looked at"


def inputs_are_usual(state: SuspicionState) -> bool:
    """Return whether recent images, one by one, have the norm statistics of source images."""
    return float(state.unusual.mean) <= UNUSUAL


def hurries(state: SuspicionState) -> bool:
    """Return whether the source model should also look at the next request, to decide sooner."""
    return max(float(state.evidence), float(state.fall)) > HURRY


def judged(
    state: SuspicionState,
    calibration: Calibration | None,
    source_gap: float | None,
    budget: float,
    returns: float = 0.0,
) -> Suspicion:
    """Return the strongest suspicion against the stream, or NONE; `returns` is as in `contradicts`.

    A contradiction needs no other sign. The other signs also appear on a stream that has rightly adapted to another
    domain, so they count only while the source model is about as sure as on its own data. Estimated accuracies and
    the source gap count only while recent images are also usual one by one.
    """
    if reason := contradicts(state, returns):
        return Suspicion("contradiction", reason)
    if not _is_believed(state, calibration):
        return NONE
    if float(state.before) >= 0:
        now = 100 * float(state.agreement.mean)
        return Suspicion(
            "agreement",
            f"agreement with a confident source model fell from {100 * float(state.before):.0f} % to {now:.0f} %",
        )
    if not inputs_are_usual(state):
        return NONE
    own, source = float(state.own_accuracy.mean), float(state.source_accuracy.mean)
    if own < source - LOWER - _doubt(state.own_accuracy, MEMORY):
        return Suspicion(
            "accuracy",
            f"estimated accuracy is {100 * own:.0f} %, the source model's on the same images {100 * source:.0f} %",
        )
    if source_gap is not None and source_gap > budget:
        worse = f"{100 * source_gap:.1f} points worse than the source model on the probe set"
        return Suspicion("source_gap", f"{worse}, while that is as sure of the inputs as of its own")
    return NONE


def _contradicted(seen: Compared) -> Tensor:
    """Return (n,) the certainty, from 0 to 1, that each image is answered wrongly, by the source model's confidence.

    It is 0 for an image with unusual statistics of its own: there the source model may be sure and wrong.
    """
    confidence, calibration = seen.source.amax(1), seen.calibration
    excess = 0.0 if calibration is None else max(float(calibration.confidence - calibration.accuracy), 0.0)
    certainty = (1 - SHARPNESS * (1 - (confidence - excess))).clamp(0, 1)
    differs = seen.source.argmax(1) != seen.answers.argmax(1)
    return certainty * (differs & ~_unusual(seen))


def _unusual(seen: Compared) -> Tensor:
    """Return (n,) whether each image's own statistics are unusual for the source; all False without a limit."""
    if seen.usual_distance is None or len(seen.alone) != len(seen.source):
        return torch.zeros(len(seen.source), dtype=torch.bool)
    return ~(seen.alone <= seen.usual_distance)


def _compared_with_past(state: SuspicionState, agreement: float) -> tuple[SuspicionState, Alarm | None]:
    usual, has_past = float(state.usual.mean), float(state.usual.weight) >= _weight(ENOUGH, PAST)
    if float(state.before) >= 0:
        return _after_a_fall(state), None
    line = usual - FAR - _doubt(state.usual, PAST)
    fall = 0.0
    if has_past and line > 0:
        stake = min(FALL_BET, 0.9 / (1 - line))  # otherwise one look of full agreement could take all evidence
        fall = _evidence(float(state.fall), 1 + stake * (line - agreement))
    if fall <= HURRY:  # the past is not updated while a fall is likely
        moved = _recent(state.usual, agreement, PAST)
        return replace(state, fall=_scalar(fall), usual=moved), None
    if fall <= -math.log(FALL_ALPHA):
        return replace(state, fall=_scalar(fall)), None
    now = float(state.agreement.mean)
    figures = {"before": usual, "now": now, "statistic": fall, "limit": -math.log(FALL_ALPHA)}
    fallen = replace(state, fall=_scalar(0.0), before=_scalar(usual))
    return fallen, Alarm("agreement", "betting", figures)


def _doubt(mean: MeanState, memory: int) -> float:
    """Return twice the largest standard error of a share measured over a mean's looks."""
    looks = -memory * math.log(max(1 - float(mean.weight), math.exp(-1)))
    return 1 / math.sqrt(max(looks, 1.0))


def _after_a_fall(state: SuspicionState) -> SuspicionState:
    """End the alarm's state once the agreement is back to within half of FAR."""
    before = float(state.before)
    return replace(state, before=_scalar(-1.0)) if float(state.agreement.mean) >= before - FAR / 2 else state


def _is_believed(state: SuspicionState, calibration: Calibration | None) -> bool:
    if float(state.source_accuracy.weight) < _weight(ENOUGH, MEMORY):
        return False
    least = SURE if calibration is None else float(calibration.accuracy) - HOME
    return float(state.source_accuracy.mean) >= least


def _estimate(probabilities: Tensor, calibration: Calibration | None) -> float:
    if calibration is None:
        return float(accuracy.average_confidence(probabilities))
    return float(accuracy.thresholded(probabilities, calibration))


def _evidence(logarithm: float, payoff: float) -> float:
    """Return log(1 + evidence) after a bet. The evidence is the total wealth of bets that start at every look."""
    return math.log1p(math.exp(logarithm) * payoff)


def _recent(state: MeanState, value: float, memory: int = MEMORY) -> MeanState:
    """Update a mean with one look: `moving_mean.update` in plain numbers, which takes a tenth of the time here."""
    keep = math.exp(-1 / memory)
    weight = keep * float(state.weight) + (1 - keep)
    mean = float(state.mean)
    moved = mean + (1 - keep) / weight * (value - mean)
    return MeanState(torch.scalar_tensor(moved), torch.scalar_tensor(weight))


def _weight(looks: int, memory: int) -> float:
    """Return the weight of a mean over so many looks, minus a margin for rounding."""
    return 1 - math.exp(-(looks - 0.5) / memory)


def _scalar(value: float) -> Tensor:
    return torch.scalar_tensor(value, dtype=torch.float64)
