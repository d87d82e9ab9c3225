"""A compiled step: the pipeline's own, to rounding, for one size of batch."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.monitors.parameter_distance import learned, relative
from adapters.state import flatten, is_finite, rebuild
from adapters.values import StepOutput
from service.errors import BundleError
from service.models.native.package import load
from service.models.native_result import Made

STEP = "step.pt2"
"""Its file in a job's folder."""
STEPS = 3
"""By which a compiled step is compared with the pipeline's."""
TOLERANCE = 1e-3
"""Of probabilities after these steps."""
PARAMETERS = 0.05
"""Of the way that the parameters went, between where both got: Adam's first steps are as long for a gradient that is
rounding alone, and take its sign."""


class NativeStep:
    """Runs a package that `making` has written.

    Attributes:
        signals: The names of the signals that a step tells, as the pipeline's own step does.

    Args:
        package: Its file, not needed any more once it is loaded.
        memory_format: How inputs lay in memory when it was made.
    """

    def __init__(self, package: Path, memory_format: torch.memory_format) -> None:
        self._run = load(package)
        self._memory_format = memory_format
        self.signals: tuple[str, ...] = ()

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""
        before = flatten(state)
        given = [tensor.contiguous() for tensor in before.values()]
        logits, probabilities, *others = self._run(x.contiguous(memory_format=self._memory_format), given)
        signals = dict(zip(self.signals, others, strict=False))
        after = rebuild(state, dict(zip(before, others[len(signals) :], strict=True)))
        return StepOutput(logits, probabilities, signals), after


def check(native: Made, step: Callable[[AdapterState, Tensor], Stepped], state: AdapterState, x: Tensor) -> None:
    """Take steps on x (N, *input_shape) and what it becomes, mirrored, by both.

    Raises:
        BundleError: If they differ by more than rounding; the message says by how much.
    """
    start = ours = theirs = state
    for number in range(STEPS):
        batch = x.flip(-1) if number % 2 else x
        given, ours = native.step(ours, batch)
        wanted, theirs = step(theirs, batch)
        apart = float((given.probabilities - wanted.probabilities).abs().max())
        if not apart <= TOLERANCE:
            raise BundleError(f"after {number} steps its probabilities are {apart:.2g} from the pipeline's")
    moved = float(relative(learned(theirs), learned(start)))
    apart = float(relative(learned(ours), learned(theirs)))
    if not is_finite(ours) or apart > PARAMETERS * moved + TOLERANCE**2:
        raise BundleError(f"its parameters went {apart:.2g} from the pipeline's, which went {moved:.2g}")
