"""ADWIN: detects a change of a signal's mean by comparing the older and the newer part of a window at every cut."""

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
        sums: (rows, buckets) float64; zeros in unused buckets.
        counts: (rows,) int64 number of used buckets in each row.
        width: () int64 number of values in the window.
        total: () float64 sum of these values.
        variance: () float64 sum of their squared deviations from their mean.
    """

    sums: Tensor
    counts: Tensor
    width: Tensor
    total: Tensor
    variance: Tensor
    ranges: ClassVar[Mapping[str, Range]] = {"variance": (0.0, math.inf)}

    def check(self) -> None:
        """Refuse a window whose rows hold another number of values than `width`, or too many buckets.

        Raises:
            StateError: If they do.
        """
        counts = self.counts.tolist()
        if max(counts) > self.sums.shape[1]:
            raise StateError(f"a row of the window holds {max(counts)} sums, expected at most {self.sums.shape[1]}")
        held = sum(count * 2**row for row, count in enumerate(counts))
        if held != int(self.width):
            raise StateError(f"the window holds {held} values, but its width is {int(self.width)}")


@dataclass(frozen=True, kw_only=True)
class AdwinOptions(Options):
    """Options for a signal in [0, 1] or with about unit variance: one term of the bound has the signal's unit."""

    delta: float = option(0.002, "maximum probability of a false alarm per check", low=1e-12, high=1.0)
    clock: int = option(32, "number of values between two checks", low=1, high=10**6)
    min_window: int = option(5, "minimum number of values in each of the two parts", low=1, high=10**6)
    grace: int = option(10, "minimum number of values before the first check", low=1, high=10**9)
    buckets: int = option(5, "sums per row; of a full row the two oldest merge into the next row", low=2, high=64)
    rows: int = option(24, "number of rows; the window restarts when all rows are full", low=1, high=48)


def init(options: AdwinOptions) -> AdwinState:
    """Return the initial state."""
    zero = torch.zeros((), dtype=torch.float64)
    return AdwinState(
        sums=torch.zeros(options.rows, options.buckets, dtype=torch.float64),
        counts=torch.zeros(options.rows, dtype=torch.int64),
        width=torch.zeros((), dtype=torch.int64),
        total=zero,
        variance=zero,
    )


def update(state: AdwinState, value: Tensor | float, options: AdwinOptions) -> tuple[AdwinState, Verdict]:
    """Add a value () to the window; restart the window after a change. A value that is not finite changes nothing.

    Two-sided: it detects both rises and falls of the mean. The statistic is the largest difference of two means divided
    by its bound: above 1 it is a change, and between two checks it is 0. Widths, bounds and changes equal those of
    river, which drops the whole window after a change; the paper keeps the newer part, and so reports one change
    several times. It computes with plain numbers, which are cheaper here than tensors, so that it cannot be vmapped.

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
    number, width, total, variance = float(value), int(state.width), float(state.total), float(state.variance)
    if width:
        deviation = number - total / width
        variance += width * deviation * deviation / (width + 1)
    width, total = width + 1, total + number
    if not math.isfinite(total + variance):
        return state, _verdict(0.0)
    sums, counts = state.sums.numpy().copy(), state.counts.numpy().copy()
    if not _insert(sums, counts, number):
        return init(options), _verdict(0.0)
    due = width % options.clock == 0 and width > options.grace
    verdict = _verdict(_greatest_difference(sums, counts, width, total, variance, options) if due else 0.0)
    if verdict.changed:
        return init(options), verdict
    moments = (torch.scalar_tensor(moment, dtype=torch.float64) for moment in (total, variance))
    window = torch.from_numpy(sums), torch.from_numpy(counts), torch.scalar_tensor(width, dtype=torch.int64)
    return AdwinState(*window, *moments), verdict


def _verdict(statistic: float) -> Verdict:
    return Verdict(statistic > 1, statistic)


def _insert(sums: Sums, counts: Counts, value: float) -> bool:
    """Add a value to the first row; merge the two oldest sums of a full row into the next. False if all are full."""
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
    """Return the largest difference between the means before and after a cut of the window, divided by its bound."""
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
