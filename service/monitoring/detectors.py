"""Change detectors for a stream's signals. They are pure; their state is part of the stream's state."""

import math
import sys
from collections.abc import Mapping
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
"""Options of the test on the logarithm of the drift signal."""
STEP_TEST = PageHinkleyOptions(tolerance=0.5, threshold=4.0, forgetting=1.0, at_least=16)
"""Options of the test on the logarithm of the parameter distance of one step."""
SHARE_TEST = AdwinOptions(delta=0.0002, clock=4)
"""Options of the tests on a request's signals between 0 and 1; ADWIN checks for a change at every fourth request."""
LOOK_TEST = AdwinOptions(delta=0.0002, clock=1)
"""Options of the test on signals that exist only when the source model looks; it checks at every look."""
SURPRISE_TEST = BettingOptions(restarts=True, alpha=1e-6, tolerance=0.02)
"""Options of the test on the entropies of the source model's answers. On images like those of the source data, it gives
one false alarm in a million values on average."""
OWN_DOMAIN = 0.06
"""Norm-statistics distance below which inputs look like source data. The source model is trusted only there."""
LEAST_CHANGE = {"entropy": 0.05, "prior_distance": 0.1, "agreement": 0.1, "source_entropy": 0.05}
"""The smallest absolute change of a signal that is reported, however significant it is."""
REASSURING = {"drift": False, "prior_distance": False, "source_entropy": False, "agreement": True}
"""Whether a rise (True) or a fall (False) of a signal is good news."""
SILENT = 500
"""Requests during which a source-entropy alarm is not repeated, because the inputs stay unusual."""


@dataclass(frozen=True)
class DetectorsState(PartState):
    """The state of the change detectors, by signal. `silent`: () int64 requests until `source_entropy` may alarm."""

    entropy: AdwinState
    prior_distance: AdwinState
    drift: PageHinkleyState
    step: PageHinkleyState
    agreement: AdwinState
    source_entropy: BettingState
    silent: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"silent": (0, SILENT)}

    def check(self) -> None:
        """Check the mean logarithms.

        Raises:
            StateError: If one is too large to be the logarithm of a float.
        """
        for name, state in (("drift", self.drift), ("step", self.step)):
            if abs(float(state.mean)) > GREATEST_LOGARITHM:
                raise StateError(f"the mean logarithm of {name} is {float(state.mean):g}")


@dataclass(frozen=True, slots=True)
class Readings:
    """The signals of one request.

    Attributes:
        entropy: Mean entropy of its answers, as a share of ln(classes).
        prior_distance: Distance of its answered classes from the source's prior, between 0 and 1.
        drift: The drift signal, or None.
        step: Relative change of the parameters by its step; None if it learned nothing.
        agreement: Share of its answers that equal the source model's; None if the source model did not look.
        source_entropies: (N,) entropies of the source model's answers; None if it did not look.
        usual: Quantiles of these entropies on source data; None if they are not known.
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
    """A change of a signal found by a detector. The keys of `figures` are before, now, statistic and limit."""

    signal: str
    detector: str
    figures: dict[str, float]

    @property
    def rose(self) -> bool:
        """Whether the signal is greater now."""
        return self.figures["now"] > self.figures["before"]

    @property
    def relevant(self) -> bool:
        """Whether the change is large enough to report. For `drift`, one of its values must lie outside OWN_DOMAIN."""
        before, now = self.figures["before"], self.figures["now"]
        if self.signal == "drift":
            return max(before, now) >= OWN_DOMAIN
        return abs(now - before) >= LEAST_CHANGE.get(self.signal, 0.0)

    @property
    def reassuring(self) -> bool:
        """Whether the change is good news."""
        return REASSURING.get(self.signal) is self.rose

    @property
    def reason(self) -> str:
        """The change in words."""
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
    """Return the state after a reset or rollback: detectors of the answers and parameters start over."""
    return replace(init(), drift=state.drift, source_entropy=state.source_entropy, silent=state.silent)


def update(state: DetectorsState, readings: Readings) -> tuple[DetectorsState, tuple[Alarm, ...]]:
    """Add one request, and return the new state and the alarms."""
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
    if by_step and not by_step.rose:  # steps normally grow shorter
        by_step = None
    found = (by_entropy, by_prior, by_drift, by_step, by_agreement, by_surprise)
    remaining = torch.scalar_tensor(silent, dtype=torch.int64)
    after = DetectorsState(entropy, prior, drift, step, agreement, surprised, remaining)
    return after, tuple(alarm for alarm in found if alarm is not None)


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
    """Test the logarithm of a value; None leaves the state unchanged."""
    if value is None:
        return state, None
    logarithm = math.log(max(value, LEAST_DISTANCE))  # NaN stays NaN, which the test ignores
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
