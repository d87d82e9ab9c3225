"""Page-Hinkley: detects a change of a signal's mean by sums of its deviations from the running mean."""

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
    """The state of the test: six scalars.

    Attributes:
        count: () int64 number of values since the start or the last change.
        mean: () mean of these values.
        rise, fall: () sums of deviations above and below the mean, each minus the tolerance.
        least_rise, least_fall: () minimum of each sum so far.
    """

    count: Tensor
    mean: Tensor
    rise: Tensor
    fall: Tensor
    least_rise: Tensor
    least_fall: Tensor


@dataclass(frozen=True, kw_only=True)
class PageHinkleyOptions(Options):
    """Options of the test. Tolerance and threshold have the signal's unit, so the signal's scale must be known."""

    tolerance: float = option(0.005, "deviations from the mean up to this are no change", low=0.0)
    threshold: float = option(50.0, "summed deviations above this are a change", low=0.0)
    forgetting: float = option(0.9999, "share of the sums that stays at each value", low=0.0, high=1.0)
    at_least: int = option(30, "minimum number of values before a change can be reported", low=1, high=10**9)


def init() -> PageHinkleyState:
    """Return the initial state."""
    zero = torch.zeros(())
    return PageHinkleyState(torch.zeros((), dtype=torch.int64), zero, zero, zero, zero, zero)


def update(
    state: PageHinkleyState, value: Tensor | float, options: PageHinkleyOptions
) -> tuple[PageHinkleyState, Verdict]:
    """Update the test with a value (); it restarts after a change.

    A value that is not finite, or too large for float32, changes nothing. Two-sided: it detects both rises and falls of
    the mean. The statistic is the larger of the two sums of deviations; above the threshold it is a change. It computes
    with plain numbers, which are cheaper here than tensors, so that it cannot be vmapped.

    Reference: Page, Continuous Inspection Schemes, Biometrika 1954; Hinkley, Biometrika 1971.

    Example:
        >>> options, state = PageHinkleyOptions(tolerance=0.1, threshold=2.0, at_least=5), init()
        >>> for index, value in enumerate([0.0] * 20 + [1.0] * 20):
        ...     state, verdict = update(state, value, options)
        ...     if verdict.changed:
        ...         print(index)
        22
    """
    number, count, before = float(value), int(state.count) + 1, _sums(state)
    mean, rise, fall, least_rise, least_fall = before
    mean += (number - mean) / count
    rise = options.forgetting * rise + (number - mean - options.tolerance)
    fall = options.forgetting * fall + (mean - number - options.tolerance)
    after = mean, rise, fall, min(least_rise, rise), min(least_fall, fall)
    if not max(map(abs, after)) <= GREATEST:  # `not <=` also catches NaN
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
