"""Measures how much faster the steps of several streams run as one, once per pipeline and number of images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped

SIZES = (2, 4, 8, 16)
"""Numbers of streams in the groups that are tried."""
ROUNDS = 3
"""Runs of each measurement. The fastest counts, because other work on the machine can only slow a run down."""
WORTH = 1.1
"""Least speedup of a group over single steps for grouping to be used."""
TOLERANCE = 1e-4
"""Largest difference of probabilities between a step in a group and the same step alone."""


class Steps(Protocol):
    """The methods of a fitted pipeline that the measurement needs."""

    def initial(self) -> AdapterState:
        """Return the state before any batch."""

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x and learn from it."""

    def step_together(self, states: Sequence[AdapterState], xs: Sequence[Tensor]) -> list[Stepped]:
        """Take the steps of several streams as one."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Step times in seconds.

    Attributes:
        alone: Time of each stream's own step. They differ, because some learners skip images with nothing to learn.
        together: Time of one step for the first n streams, by n.
    """

    alone: Sequence[float]
    together: Mapping[int, float]

    def times(self, streams: int) -> float:
        """Return the speedup of one step for the first `streams` streams over their single steps."""
        return sum(self.alone[:streams]) / self.together[streams]


@dataclass(frozen=True, slots=True)
class Gain:
    """The benefit of grouping a pipeline's steps.

    Attributes:
        least: The smallest group worth running as one step; 0 if none is.
        times: Speedup of the largest group tried; 0.0 if it could not be tried.
        reason: Why steps are not grouped; "" if they are.
    """

    least: int
    times: float
    reason: str


def measured(steps: Steps, xs: Sequence[Tensor]) -> Gain:
    """Check that grouped steps give the answers of single steps, then time both.

    Args:
        steps: The pipeline.
        xs: Synthetic batches (N, *input_shape), as many as the largest of `SIZES`.
    """
    try:
        difference = _difference(steps, xs[: SIZES[0]])
        if not difference <= TOLERANCE:
            return _none(f"probabilities differ by {difference:.2g} between steps as one and one by one")
        return judged(_timed(steps, xs))
    except Exception as error:  # noqa: BLE001 - a model's own code may branch on data and raise anything
        return _none(f"the model's steps cannot be taken as one ({type(error).__name__})")


def judged(timed: Timed) -> Gain:
    """Return the gain; `least` is the smallest tried size that reaches WORTH together with all larger ones.

    Example:
        >>> judged(Timed([1.0] * 8, {2: 2.5, 4: 3.0, 8: 4.0}))
        Gain(least=4, times=2.0, reason='')
        >>> judged(Timed([1.0] * 8, {8: 10.0})).reason
        '8 steps as one take 1.2 times as long as one by one'
    """
    times = {size: timed.times(size) for size in sorted(timed.together, reverse=True)}
    least = 0
    for size, ratio in times.items():
        if ratio < WORTH:
            break
        least = size
    largest, ratio = next(iter(times.items()))
    reason = "" if least else f"{largest} steps as one take {1 / ratio:.1f} times as long as one by one"
    return Gain(least, ratio, reason)


def _none(reason: str) -> Gain:
    return Gain(0, 0.0, reason)


def _difference(steps: Steps, xs: Sequence[Tensor]) -> float:
    """Return the largest difference of probabilities over two grouped and two single steps; NaN is propagated."""
    together = alone = [steps.initial() for _ in xs]
    difference = torch.zeros(())
    for _ in range(2):
        grouped = steps.step_together(together, xs)
        single = [steps.step(state, x) for state, x in zip(alone, xs, strict=True)]
        for (a, _), (b, _) in zip(grouped, single, strict=True):
            difference = torch.maximum(difference, (a.probabilities - b.probabilities).abs().max())
        together, alone = [state for _, state in grouped], [state for _, state in single]
    return float(difference)


def _timed(steps: Steps, xs: Sequence[Tensor]) -> Timed:
    """Time single steps and groups, the largest group first, until one is not worth it."""
    state = steps.initial()
    alone, together = [fastest(partial(steps.step, state, x)) for x in xs], dict[int, float]()
    timed = Timed(alone, together)
    for size in reversed(SIZES):
        together[size] = fastest(partial(steps.step_together, [state] * size, xs[:size]))
        if timed.times(size) < WORTH:
            break
    return timed


def fastest(run: Callable[[], object]) -> float:
    """Return the time of the fastest of ROUNDS runs, in seconds."""
    return min(_seconds(run) for _ in range(ROUNDS))


def _seconds(run: Callable[[], object]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began
