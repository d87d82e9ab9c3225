"""Page-Hinkley: tells that the mean of a signal has changed, by sums of its deviations from its running mean."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from adapters.options import Options, option
from adapters.values import PartState, Verdict

GREATEST = torch.finfo(torch.float32).max
Sums: TypeAlias = tuple[float, float, float, float, float]
"""Mean, rise, fall, least rise, least fall."""


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


def update(
    state: PageHinkleyState, value: Tensor | float, options: PageHinkleyOptions
) -> tuple[PageHinkleyState, Verdict]:
    """Take in a value (); after a change the test begins anew.

    A value that is not finite, or too great for float32, changes nothing. Two-sided: rises and falls of the mean are
    both found. The statistic is the summed deviations; a change is one above the threshold. In plain numbers, which are
    cheaper here than tensors: it cannot be vmapped.

    Reference: Page, Continuous Inspection Schemes, Biometrika 1954; Hinkley, Biometrika 1971.

    Example:
        >>> options, state = PageHinkleyOptions(tolerance=0.1, threshold=2.0, at_least=5), init()
        >>> for index, value in enumerate([0.0] * 20 + [1.0] * 20):
        ...     state, verdict = update(state, value, options)
        ...     if verdict.changed:
        ...         print(index)
        22
    """
    given, count, before = float(value), int(state.count) + 1, _sums(state)
    mean, rise, fall, least_rise, least_fall = before
    mean += (given - mean) / count
    rise = options.forgetting * rise + (given - mean - options.tolerance)
    fall = options.forgetting * fall + (mean - given - options.tolerance)
    after = mean, rise, fall, min(least_rise, rise), min(least_fall, fall)
    if not max(map(abs, after)) <= GREATEST:  # as if it had not come, like NaN
        return state, Verdict(False, _statistic(before))
    statistic = _statistic(after)
    if count >= options.at_least and statistic > options.threshold:
        return init(), Verdict(True, statistic)
    counted = torch.scalar_tensor(count, dtype=torch.int64)
    return PageHinkleyState(counted, *map(torch.scalar_tensor, after)), Verdict(False, statistic)


def _sums(state: PageHinkleyState) -> Sums:
    sums = state.mean, state.rise, state.fall, state.least_rise, state.least_fall
    mean, rise, fall, least_rise, least_fall = map(float, sums)
    return mean, rise, fall, least_rise, least_fall


def _statistic(sums: Sums) -> float:
    _, rise, fall, least_rise, least_fall = sums
    return max(rise - least_rise, fall - least_fall)
