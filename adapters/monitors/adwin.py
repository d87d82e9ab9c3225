"""ADWIN: tells that the mean of a signal has changed, by comparing every older with every newer part of a window."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adapters.errors import StateError
from adapters.options import Options, option
from adapters.state import Range
from adapters.values import PartState, Verdict

Sums: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AdwinState(PartState):
    """A window of values as an exponential histogram: row r holds sums of 2^r values each, the oldest sum first.

    Attributes:
        sums: (rows, buckets) float64; zeros where no bucket is.
        counts: (rows,) int64 buckets in each row.
        width: () int64 values in the window.
        total: () float64 their sum.
        variance: () float64 their summed squared deviations from their mean.
    """

    sums: Tensor
    counts: Tensor
    width: Tensor
    total: Tensor
    variance: Tensor
    ranges: ClassVar[Mapping[str, Range]] = {"variance": (0.0, math.inf)}

    def check(self) -> None:
        """Refuse a window whose rows do not hold as many values as it says.

        Raises:
            StateError: If it is one.
        """
        counts = self.counts.tolist()
        if max(counts) > self.sums.shape[1]:
            raise StateError(f"a row of the window holds {max(counts)} sums, of {self.sums.shape[1]}")
        held = sum(count * 2**row for row, count in enumerate(counts))
        if held != int(self.width):
            raise StateError(f"the window holds {held} values and says {int(self.width)}")


@dataclass(frozen=True, kw_only=True)
class AdwinOptions(Options):
    """Of a signal in [0, 1] or of about unit variance: one term of the bound is in the signal's own unit."""

    delta: float = option(0.002, "probability of a false alarm at a check, at most", low=1e-12, high=1.0)
    clock: int = option(32, "values from check to check", low=1, high=10**6)
    min_window: int = option(5, "values that each of the two parts has at least", low=1, high=10**6)
    grace: int = option(10, "values before the first check, at least", low=1, high=10**9)
    buckets: int = option(5, "sums in a row before the two oldest become one of the next row", low=2, high=64)
    rows: int = option(24, "rows: a window of buckets * 2^rows values is full and begins anew", low=1, high=48)


def init(options: AdwinOptions) -> AdwinState:
    """Return the state before any value."""
    zero = torch.zeros((), dtype=torch.float64)
    return AdwinState(
        sums=torch.zeros(options.rows, options.buckets, dtype=torch.float64),
        counts=torch.zeros(options.rows, dtype=torch.int64),
        width=torch.zeros((), dtype=torch.int64),
        total=zero,
        variance=zero,
    )


def update(state: AdwinState, value: Tensor | float, options: AdwinOptions) -> tuple[AdwinState, Verdict]:
    """Take in a value (); after a change the window begins anew. A value that is not finite changes nothing.

    Two-sided: rises and falls of the mean are both found. The statistic is the greatest difference of two means in
    units of its bound: a change is one above 1, and between two checks it is 0. Widths, bounds and changes are those of
    river, which drops the whole window after a change; the paper keeps the newer part, and so tells of one change
    several times. In plain numbers, which are cheaper here than tensors: it cannot be vmapped.

    Reference: Bifet, Gavaldà, Learning from Time-Changing Data with Adaptive Windowing, SIAM SDM 2007.

    Example:
        >>> options = AdwinOptions()
        >>> state = init(options)
        >>> for index, value in enumerate([0.0] * 200 + [1.0] * 200):
        ...     state, verdict = update(state, value, options)
        ...     if verdict.changed:
        ...         print(index)
        223
    """
    given, width, total, variance = float(value), int(state.width), float(state.total), float(state.variance)
    if width:
        deviation = given - total / width
        variance += width * deviation * deviation / (width + 1)
    width, total = width + 1, total + given
    if not math.isfinite(total + variance):
        return state, _verdict(0.0)
    sums, counts = state.sums.numpy().copy(), state.counts.numpy().copy()
    if not _insert(sums, counts, given):
        return init(options), _verdict(0.0)
    due = width % options.clock == 0 and width > options.grace
    verdict = _verdict(_greatest_difference(sums, counts, width, total, variance, options) if due else 0.0)
    if verdict.changed:
        return init(options), verdict
    numbers = (torch.scalar_tensor(number, dtype=torch.float64) for number in (total, variance))
    window = torch.from_numpy(sums), torch.from_numpy(counts), torch.scalar_tensor(width, dtype=torch.int64)
    return AdwinState(*window, *numbers), verdict


def _verdict(statistic: float) -> Verdict:
    return Verdict(statistic > 1, statistic)


def _insert(sums: Sums, counts: Counts, value: float) -> bool:
    """Add a value to the first row; the two oldest sums of a full row become one of the next. False if all are full."""
    for row, count in enumerate(counts.tolist()):
        if count < sums.shape[1]:
            sums[row, count] = value
            counts[row] = count + 1
            return True
        carried = float(sums[row, 0] + sums[row, 1])
        sums[row, :-2] = sums[row, 2:]
        sums[row, -2:] = value, 0.0
        counts[row] = count - 1
        value = carried
    return False


def _greatest_difference(
    sums: Sums, counts: Counts, width: int, total: float, variance: float, options: AdwinOptions
) -> float:
    """Return the greatest difference between the means before and after a cut of the window, over its bound."""
    surprise = math.log(2 * math.log(width) / options.delta)
    older, older_total, greatest = 0, 0.0, 0.0
    newer, newer_total = width, total
    for row, count in reversed(list(enumerate(counts.tolist()))):
        for bucket in sums[row, :count].tolist():
            older, older_total = older + 2**row, older_total + bucket
            newer, newer_total = newer - 2**row, newer_total - bucket
            if older < options.min_window or newer < options.min_window:
                continue
            spread = 1 / (older - options.min_window + 1) + 1 / (newer - options.min_window + 1)
            bound = math.sqrt(2 * spread * (variance / width) * surprise) + 2 / 3 * surprise * spread
            greatest = max(greatest, abs(older_total / older - newer_total / newer) / bound)
    return greatest
