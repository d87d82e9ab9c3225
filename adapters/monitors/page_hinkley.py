"""Page-Hinkley: tells that the mean of a signal has changed, by sums of its deviations from its running mean."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import PartState
from adapters.options import Options, option


@dataclass(frozen=True)
class PageHinkleyState(PartState):
    """What the test remembers, six scalars.

    Attributes:
        count: () int64 values since the start or the last change.
        mean: () their mean.
        rise, fall: () sums of deviations above and below the mean, less the tolerance.
        least_rise, least_fall: () the least these sums have been.
    """

    count: Tensor
    mean: Tensor
    rise: Tensor
    fall: Tensor
    least_rise: Tensor
    least_fall: Tensor


@dataclass(frozen=True)
class Verdict:
    """Whether the mean has changed (), and the statistic () that says so: a change is one above the threshold."""

    changed: Tensor
    statistic: Tensor


@dataclass(frozen=True, kw_only=True)
class PageHinkleyOptions(Options):
    """Of the signal's own unit: give it a signal whose scale is known."""

    tolerance: float = option(0.005, "deviations from the mean up to this are no change", low=0.0)
    threshold: float = option(50.0, "summed deviations above this are a change", low=0.0)
    forgetting: float = option(0.9999, "share of the sums that stays at each value", low=0.0, high=1.0)
    at_least: int = option(30, "values before a change can be told", low=1, high=10**9)


def init() -> PageHinkleyState:
    """Return the state before any value."""
    zero = torch.zeros(())
    return PageHinkleyState(torch.zeros((), dtype=torch.int64), zero, zero, zero, zero, zero)


def update(state: PageHinkleyState, value: Tensor, options: PageHinkleyOptions) -> tuple[PageHinkleyState, Verdict]:
    """Take in a value (); after a change the test begins anew. A value that is not finite changes nothing.

    Two-sided: rises and falls of the mean are both found. Without a branch on data, so that it can be vmapped.

    Reference: Page, Continuous Inspection Schemes, Biometrika 1954; Hinkley, Biometrika 1971.

    Example:
        >>> options, state = PageHinkleyOptions(tolerance=0.1, threshold=2.0, at_least=5), init()
        >>> for index, value in enumerate([0.0] * 20 + [1.0] * 20):
        ...     state, verdict = update(state, torch.tensor(value), options)
        ...     if verdict.changed:
        ...         print(index)
        22
    """
    sound = torch.isfinite(value)
    seen = torch.where(sound, value, state.mean).to(state.mean)
    count = state.count + sound.to(torch.int64)
    mean = state.mean + (seen - state.mean) / count.clamp_min(1)
    keep = torch.where(sound, options.forgetting, 1.0)
    tolerance = torch.where(sound, options.tolerance, 0.0)
    rise = keep * state.rise + (seen - mean - tolerance)
    fall = keep * state.fall + (mean - seen - tolerance)
    moved = PageHinkleyState(
        count, mean, rise, fall, torch.minimum(state.least_rise, rise), torch.minimum(state.least_fall, fall)
    )
    statistic = torch.maximum(rise - moved.least_rise, fall - moved.least_fall)
    changed = sound & (count >= options.at_least) & (statistic > options.threshold)
    return _begun_again(changed, moved), Verdict(changed, statistic)


def _begun_again(changed: Tensor, state: PageHinkleyState) -> PageHinkleyState:
    fresh = init()
    return PageHinkleyState(
        **{name: torch.where(changed, getattr(fresh, name), value) for name, value in vars(state).items()}
    )
