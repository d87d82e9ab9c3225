"""Compares a kernel with the steps that it replaces, and times both, before it serves."""

import timeit
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.monitors.parameter_distance import learned, relative
from adapters.state import flatten, is_finite
from service.models.kernels.kernel import Kernel, KernelStatus, Kind, Steps

VALUES = 1e-3
"""Largest difference of signals and of state tensors, absolute plus relative."""
PARAMETERS = 0.05
"""Largest difference of learned parameters, relative to the distance that they moved. Adam's first steps have full
length even where the gradient is only rounding noise."""
UNMOVED = 1e-6
"""Largest relative difference of parameters that have not moved."""
LEARNER = "learner/"
"""The start of the names of a learner's state."""
ROUNDS = 3
"""Runs of each measurement. The fastest counts, because other work on the machine can only slow a run down."""


def judge(
    kernel: Kernel,
    against: Steps,
    states: Sequence[AdapterState],
    rounds: Sequence[Sequence[Tensor]],
    timed: Sequence[Tensor],
    sizes: Sequence[int] = (1,),
) -> KernelStatus:
    """Verify a kernel, then time it on other batches; see `verify` and `measure`. It serves if both succeed."""
    try:
        reason = verify(kernel, against, states, rounds)
        return refused(kernel, reason) if reason else measure(kernel, against, states[0], timed, sizes)
    except Exception as error:  # noqa: BLE001 - a model's own code may raise anything; the pipeline serves
        return refused(kernel, _failure(error))


def verify(kernel: Kernel, against: Steps, states: Sequence[AdapterState], rounds: Sequence[Sequence[Tensor]]) -> str:
    """Take steps with a kernel and with the steps that it replaces; return the first difference beyond rounding, or "".

    Args:
        kernel: The kernel.
        against: The steps that it replaces.
        states: The state before the first step, one a stream.
        rounds: The batches (N, *input_shape) of each step, one a stream. Each step starts where the last one ended.
    """
    ours = theirs = list(states)
    for number, xs in enumerate(rounds):
        try:
            actual = kernel.steps(ours, xs)
        except Exception as error:  # noqa: BLE001 - a runtime or a model's own code may raise anything
            return _failure(error)
        expected = against.steps(theirs, xs)
        reasons = (_difference(kernel.kind, *each) for each in zip(actual, expected, strict=True))
        reason = next(filter(None, reasons), "")
        if reason:
            return f"after {number} steps its {reason}"
        ours, theirs = [state for _, state in actual], [state for _, state in expected]
    return next(filter(None, map(_drift, ours, theirs, states)), "")


def _difference(kind: Kind, actual: Stepped, expected: Stepped) -> str:
    (answer, state), (wanted, wanted_state) = actual, expected
    scale = max(1.0, float(wanted.logits.abs().max()))
    for name, largest in (("logits", kind.rounding * scale), ("probabilities", kind.rounding)):
        difference = float((getattr(answer, name) - getattr(wanted, name)).abs().max())
        if not difference <= largest:  # NaN is not
            return f"{name} are {difference:.2g} from the pipeline's"
    if not _alike(answer.signals, wanted.signals):
        return "signals are not the pipeline's"
    left_out = LEARNER if kind.differentiates else ()
    values, wanted_values = ({name: tensor for name, tensor in flatten(each).items() if not name.startswith(left_out)}
                             for each in (state, wanted_state))  # fmt: skip
    if not _alike(values, wanted_values) or (kind.differentiates and not is_finite(state)):
        return "state is not the pipeline's"
    return ""


def _drift(ours: AdapterState, theirs: AdapterState, start: AdapterState) -> str:
    """Describe how far learned parameters are from the pipeline's, if that is too far."""
    moved = float(relative(learned(theirs), learned(start)))
    difference = float(relative(learned(ours), learned(theirs)))
    if difference <= PARAMETERS * moved + UNMOVED:
        return ""
    return f"its parameters are {difference:.2g} from the pipeline's, which moved by {moved:.2g}"


def _alike(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return actual.keys() == expected.keys() and all(
        actual[name].dtype == tensor.dtype and torch.allclose(actual[name], tensor, rtol=VALUES, atol=VALUES)
        for name, tensor in expected.items()
    )


def measure(
    kernel: Kernel, against: Steps, state: AdapterState, xs: Sequence[Tensor], sizes: Sequence[int] = (1,)
) -> KernelStatus:
    """Time a kernel against the steps that it replaces.

    Args:
        kernel: The kernel.
        against: The steps that it replaces.
        state: The state before each step.
        xs: Batches (N, *input_shape), as many as the largest of `sizes`. Their single steps may differ in time, because
            some learners skip images with nothing to learn.
        sizes: The numbers of streams to time, the largest first, until one is not worth it.
    """
    alone = [_seconds(partial(against.steps, [state], [x])) for x in xs]
    times: dict[int, float] = {}
    for size in sorted(sizes, reverse=True):
        times[size] = sum(alone[:size]) / _seconds(partial(kernel.steps, [state] * size, xs[:size]))
        if times[size] < kernel.kind.worth:
            break
    return status_of(kernel, times)


def status_of(kernel: Kernel, times: Mapping[int, float]) -> KernelStatus:
    """Return a verified kernel's status by its speedups.

    It takes as many streams as the smallest number at which, as at all larger ones, it is fast enough.

    Args:
        kernel: The kernel.
        times: The speedup by number of streams, the largest first.
    """
    least = 0
    for size, ratio in times.items():
        if ratio < kernel.kind.worth:
            break
        least = size
    largest, ratio = next(iter(times.items()))
    return KernelStatus("", kernel, least, ratio) if least else too_slow(kernel, ratio, largest)


def too_slow(kernel: Kernel, times: float, streams: int = 1) -> KernelStatus:
    """Return the status of a kernel with this speedup, which is not enough."""
    many = f"for {streams} streams " if streams > 1 else ""
    return refused(kernel, f"{many}it takes {1 / times:.1f} times as long", times)


def refused(kernel: Kernel, reason: str, times: float = 0.0) -> KernelStatus:
    """Return the status of a kernel that is not used for this reason."""
    return KernelStatus(f"{kernel.kind.name} is not used: {reason}", times=times)


def _failure(error: Exception) -> str:
    return f"it fails: {type(error).__name__}: {str(error)[:200]}"


def _seconds(run: Callable[[], object]) -> float:
    return min(timeit.repeat(run, number=1, repeat=ROUNDS))
