"""What tells that a signal of a stream has changed: a detector for each signal, pure, and kept with the state."""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from adapters.errors import StateError
from adapters.monitors import adwin, betting, page_hinkley
from adapters.monitors.adwin import AdwinOptions, AdwinState
from adapters.monitors.betting import BettingOptions, BettingState
from adapters.monitors.page_hinkley import PageHinkleyOptions, PageHinkleyState
from adapters.state import Range
from adapters.values import PartState

LEAST_DISTANCE = 1e-6
GREATEST_LOGARITHM = math.log(sys.float_info.max)
DRIFT_TEST = PageHinkleyOptions(tolerance=0.1, threshold=1.5, forgetting=1.0, at_least=4)
"""On the logarithm of the drift signal."""
STEP_TEST = PageHinkleyOptions(tolerance=0.5, threshold=4.0, forgetting=1.0, at_least=16)
"""On the logarithm of how far one step moves the parameters."""
SHARE_TEST = AdwinOptions(delta=0.0002, clock=4)
"""On signals between 0 and 1 of each request; looked at every fourth."""
LOOK_TEST = AdwinOptions(delta=0.0002, clock=1)
"""The same of signals that come with a look of the source model."""
SURPRISE_TEST = BettingOptions(restarts=True, alpha=1e-6, tolerance=0.02)
"""On the entropies of the source model's answers: a million values on average to a false alarm, on images like those
that its usual entropies are of."""
OWN_DOMAIN = 0.06
"""Norm-statistics distance below which inputs look like the source's own: there, and only there, is it trusted."""
LEAST_CHANGE = {"entropy": 0.05, "prior_distance": 0.1, "agreement": 0.1, "source_entropy": 0.05}
"""Absolute change of a signal below which nobody needs to know of it, however sure it is."""
REASSURING = {"drift": False, "prior_distance": False, "source_entropy": False, "agreement": True}
"""Whether a signal reassures where it rises (True) or where it falls (False)."""
SILENT = 500
"""Requests after an alarm of that test in which it is not told again: an unlike stream stays unlike."""


@dataclass(frozen=True)
class DetectorsState(PartState):
    """What the change detectors remember, by signal; `silent` () int64 requests the last one is not heard in."""

    entropy: AdwinState
    prior_distance: AdwinState
    drift: PageHinkleyState
    step: PageHinkleyState
    agreement: AdwinState
    source_entropy: BettingState
    silent: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"silent": (0, SILENT)}

    def check(self) -> None:
        """Refuse mean logarithms of signals that no number has.

        Raises:
            StateError: If there is one.
        """
        for name, state in (("drift", self.drift), ("step", self.step)):
            if abs(float(state.mean)) > GREATEST_LOGARITHM:
                raise StateError(f"the mean logarithm of {name} is {float(state.mean):g}")


@dataclass(frozen=True, slots=True)
class Readings:
    """The signals of one request.

    Attributes:
        entropy: Mean entropy of its answers, as a share of ln(classes).
        prior_distance: Of its classes from the source's prior, between 0 and 1.
        drift: The drift signal, or None.
        step: How far its step has moved the parameters, relatively, or None where it learned nothing.
        agreement: Share of the answers that are the source model's, where that looked.
        source_entropies: (N,) of the source model's answers, where it looked.
        usual: Quantiles of these on source images, where they are known.
    """

    entropy: float
    prior_distance: float
    drift: float | None
    step: float | None
    agreement: float | None
    source_entropies: Tensor | None
    usual: Tensor | None


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change that a detector has found in a signal; `figures`: before, now, statistic, limit."""

    signal: str
    detector: str
    figures: dict[str, float]

    @property
    def rose(self) -> bool:
        """Whether the signal is greater now."""
        return self.figures["now"] > self.figures["before"]

    @property
    def relevant(self) -> bool:
        """Whether the change is large enough to be told; a drift must lead out of the source's own domain, or back."""
        before, now = self.figures["before"], self.figures["now"]
        if self.signal == "drift":
            return max(before, now) >= OWN_DOMAIN
        return abs(now - before) >= LEAST_CHANGE.get(self.signal, 0.0)

    @property
    def reassuring(self) -> bool:
        """Whether the signal moved the way that an operator hopes for."""
        return REASSURING.get(self.signal) is self.rose

    @property
    def reason(self) -> str:
        """What was found, in words."""
        signal = "parameter_distance per step" if self.signal == "parameter_distance" else self.signal
        direction = "rose" if self.rose else "fell"
        return f"{signal} {direction} from {self.figures['before']:.3g} to {self.figures['now']:.3g}"


def init() -> DetectorsState:
    """Return the state before any request."""
    return DetectorsState(
        entropy=adwin.init(SHARE_TEST),
        prior_distance=adwin.init(SHARE_TEST),
        drift=page_hinkley.init(),
        step=page_hinkley.init(),
        agreement=adwin.init(LOOK_TEST),
        source_entropy=betting.init(),
        silent=torch.zeros((), dtype=torch.int64),
    )


def begun_again(state: DetectorsState) -> DetectorsState:
    """Return the state after the stream went back: what told of its answers and parameters begins anew."""
    return replace(init(), drift=state.drift, source_entropy=state.source_entropy, silent=state.silent)


def update(state: DetectorsState, readings: Readings) -> tuple[DetectorsState, tuple[Alarm, ...]]:
    """Take in one request; return what has changed by it."""
    entropy, by_entropy = _by_adwin("entropy", state.entropy, readings.entropy, SHARE_TEST)
    prior, by_prior = _by_adwin("prior_distance", state.prior_distance, readings.prior_distance, SHARE_TEST)
    drift, by_drift = _by_page_hinkley("drift", state.drift, readings.drift, DRIFT_TEST)
    step, by_step = _by_page_hinkley("parameter_distance", state.step, readings.step, STEP_TEST)
    agreement, by_agreement = _by_adwin("agreement", state.agreement, readings.agreement, LOOK_TEST)
    surprised, by_surprise = _by_betting(state.source_entropy, readings)
    silent = max(int(state.silent) - 1, 0)
    if silent:
        by_surprise = None
    elif by_surprise:
        silent = SILENT
    if by_step and not by_step.rose:  # steps grow shorter by nature
        by_step = None
    found = (by_entropy, by_prior, by_drift, by_step, by_agreement, by_surprise)
    left = torch.scalar_tensor(silent, dtype=torch.int64)
    moved = DetectorsState(entropy, prior, drift, step, agreement, surprised, left)
    return moved, tuple(_told(found))


def _told(found: tuple[Alarm | None, ...]) -> Iterator[Alarm]:
    return (alarm for alarm in found if alarm is not None)


def _by_adwin(
    signal: str, state: AdwinState, value: float | None, options: AdwinOptions
) -> tuple[AdwinState, Alarm | None]:
    if value is None:
        return state, None
    after, verdict = adwin.update(state, value, options)
    if not verdict.changed:
        return after, None
    before = float(state.total) / max(int(state.width), 1)
    figures = {"before": before, "now": value, "statistic": verdict.statistic, "limit": 1.0}
    return after, Alarm(signal, "adwin", figures)


def _by_page_hinkley(
    signal: str, state: PageHinkleyState, value: float | None, options: PageHinkleyOptions
) -> tuple[PageHinkleyState, Alarm | None]:
    """Test the logarithm of a value; one that is missing changes nothing."""
    if value is None:
        return state, None
    logarithm = math.log(max(value, LEAST_DISTANCE))  # of NaN: NaN, which the test leaves out
    after, verdict = page_hinkley.update(state, logarithm, options)
    if not verdict.changed:
        return after, None
    figures = {
        "before": math.exp(float(state.mean)), "now": math.exp(logarithm),
        "statistic": verdict.statistic, "limit": options.threshold,
    }  # fmt: skip
    return after, Alarm(signal, "page_hinkley", figures)


def _by_betting(state: BettingState, readings: Readings) -> tuple[BettingState, Alarm | None]:
    if readings.source_entropies is None or readings.usual is None:
        return state, None
    after, verdict = betting.update(state, readings.source_entropies, readings.usual, SURPRISE_TEST)
    if not verdict.changed:
        return after, None
    figures = {
        "before": float(readings.usual.median()), "now": float(readings.source_entropies.nanmean()),
        "statistic": verdict.statistic, "limit": -math.log(SURPRISE_TEST.alpha),
    }  # fmt: skip
    return after, Alarm("source_entropy", "betting", figures)
