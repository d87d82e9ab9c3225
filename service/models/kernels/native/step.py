"""A compiled step: the pipeline's step for one batch size, up to rounding."""

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
from service.models.kernels.native.package import load
from service.models.native_result import CompiledCode

STEP = "step.pt2"
"""The package of the step in a job's folder."""
STEPS = 3
"""Number of steps that a compiled step is compared with the pipeline's on."""
TOLERANCE = 1e-3
"""Largest difference of probabilities in these steps."""
PARAMETERS = 0.05
"""Tolerance on parameters, relative to the distance that they moved. Adam's first steps have full length even where the
gradient is only rounding noise."""


class NativeStep:
    """Runs a step that `compile` has compiled.

    Attributes:
        signals: The names of the step's signals, in the order of the pipeline's own step.

    Args:
        package: The package's file. It may be removed afterwards.
        memory_format: The memory format of images that it was compiled for.
    """

    def __init__(self, package: Path, memory_format: torch.memory_format) -> None:
        self._run = load(package)
        self._memory_format = memory_format
        self.signals: tuple[str, ...] = ()

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        before = flatten(state)
        tensors = [tensor.contiguous() for tensor in before.values()]
        logits, probabilities, *others = self._run(x.contiguous(memory_format=self._memory_format), tensors)
        signals = dict(zip(self.signals, others, strict=False))
        after = rebuild(state, dict(zip(before, others[len(signals) :], strict=True)))
        return StepOutput(logits, probabilities, signals), after


def check(
    native: CompiledCode, step: Callable[[AdapterState, Tensor], Stepped], state: AdapterState, x: Tensor
) -> None:
    """Compare compiled steps with the pipeline's, on x (N, *input_shape) and its mirror image in turn.

    Raises:
        BundleError: If they differ by more than rounding. The message says by how much.
    """
    start = native_state = pipeline_state = state
    for number in range(STEPS):
        batch = x.flip(-1) if number % 2 else x
        actual, native_state = native.step(native_state, batch)
        expected, pipeline_state = step(pipeline_state, batch)
        difference = float((actual.probabilities - expected.probabilities).abs().max())
        if not difference <= TOLERANCE:
            raise BundleError(f"after {number} steps its probabilities are {difference:.2g} from the pipeline's")
    moved = float(relative(learned(pipeline_state), learned(start)))
    difference = float(relative(learned(native_state), learned(pipeline_state)))
    if not is_finite(native_state) or difference > PARAMETERS * moved + TOLERANCE**2:
        raise BundleError(f"its parameters are {difference:.2g} from the pipeline's, which moved by {moved:.2g}")
