"""A compiled step: the pipeline's step for one batch size, up to rounding."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.state import flatten, rebuild
from adapters.values import StepOutput
from service.models.kernels.kernel import MACHINE_CODE, Kind, OneStream

Run: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""Maps images and a list of tensors to tensors."""
STEP, SIGNALS = "step.pt2", "signals.json"
"""The package of the step in a job's folder, and the names of its signals in the order of its outputs."""


class NativeStep(OneStream):
    """Runs a step that `compile` has compiled.

    Args:
        folder: The folder of the package. It may be removed afterwards.
        memory_format: The memory format of images that it was compiled for.
    """

    kind: ClassVar[Kind] = MACHINE_CODE

    def __init__(self, folder: Path, memory_format: torch.memory_format) -> None:
        self._run = load(folder / STEP)
        self._signals: list[str] = json.loads((folder / SIGNALS).read_text(encoding="utf-8"))
        self._memory_format = memory_format

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        before = flatten(state)
        tensors = [tensor.contiguous() for tensor in before.values()]
        logits, probabilities, *others = self._run(x.contiguous(memory_format=self._memory_format), tensors)
        signals = dict(zip(self._signals, others, strict=False))
        after = rebuild(state, dict(zip(before, others[len(signals) :], strict=True)))
        return StepOutput(logits, probabilities, signals), after


def load(package: Path) -> Run:
    """Load the function that `compile` has written to a file. The file may be removed afterwards."""
    from torch._inductor import aoti_load_package

    run: Run = aoti_load_package(str(package))
    return run
