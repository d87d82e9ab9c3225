"""Whether the steps of several streams pay as one: measured once for each pipeline and number of images."""

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
"""Streams in the groups that are tried."""
ROUNDS = 3
"""Of which the fastest counts: what else the machine does only ever adds."""
WORTH = 1.1
"""How many times faster than one by one a group must be."""
TOLERANCE = 1e-4
"""Of probabilities: how far a step taken with others may be from the one taken alone."""


class Steps(Protocol):
    """A pipeline fitted to a model, as far as this goes."""

    def initial(self) -> AdapterState:
        """Return the state before any batch."""

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x and learn from it."""

    def step_together(self, states: Sequence[AdapterState], xs: Sequence[Tensor]) -> list[Stepped]:
        """Take the steps of several streams as one."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of each stream's step by itself, and of the first so many streams' steps as one by their number.

    Of each stream, as some learners do more where there is something to learn.
    """

    alone: Sequence[float]
    together: Mapping[int, float]

    def times(self, streams: int) -> float:
        """Return how many times faster the steps of the first so many streams are as one than one by one."""
        return sum(self.alone[:streams]) / self.together[streams]


@dataclass(frozen=True, slots=True)
class Gain:
    """What it brings to take steps together.

    Attributes:
        least: The fewest streams that go together; 0 where none do.
        times: How many times faster the largest group tried is than one by one; 0.0 where it could not be tried.
        reason: Why none go together; "" where they do.
    """

    least: int
    times: float
    reason: str


def measured(steps: Steps, xs: Sequence[Tensor]) -> Gain:
    """Compare steps taken together with those taken one by one, then time them.

    Args:
        steps: The pipeline.
        xs: Made batches (N, *input_shape), as many as the largest of `SIZES`.
    """
    try:
        apart = _difference(steps, xs[: SIZES[0]])
        return judged(_timed(steps, xs)) if apart <= TOLERANCE else _none(f"as one they are {apart:.2g} apart")
    except Exception as error:  # noqa: BLE001 - a model's own code may branch on data, and then anything is raised
        return _none(f"the model's steps cannot be taken as one ({type(error).__name__})")


def judged(timed: Timed) -> Gain:
    """Tell from which number of streams on all groups that were tried pay.

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
    """Return how far probabilities are apart after two steps both ways; NaN is no small difference."""
    together = alone = [steps.initial() for _ in xs]
    apart = torch.zeros(())
    for _ in range(2):
        given = steps.step_together(together, xs)
        wanted = [steps.step(state, x) for state, x in zip(alone, xs, strict=True)]
        for (a, _), (b, _) in zip(given, wanted, strict=True):
            apart = torch.maximum(apart, (a.probabilities - b.probabilities).abs().max())
        together, alone = [state for _, state in given], [state for _, state in wanted]
    return float(apart)


def _timed(steps: Steps, xs: Sequence[Tensor]) -> Timed:
    """Time the largest group first; smaller ones only where that one pays."""
    state = steps.initial()
    alone, together = [fastest(partial(steps.step, state, x)) for x in xs], dict[int, float]()
    timed = Timed(alone, together)
    for size in reversed(SIZES):
        together[size] = fastest(partial(steps.step_together, [state] * size, xs[:size]))
        if timed.times(size) < WORTH:
            break
    return timed


def fastest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some runs."""
    return min(_seconds(run) for _ in range(ROUNDS))


def _seconds(run: Callable[[], object]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began
