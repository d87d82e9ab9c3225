"""The result of compiling a pipeline's step for one batch size."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped


class CompiledCode(Protocol):
    """Takes a pipeline's steps with compiled code."""

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""


@dataclass(slots=True)
class Native:
    """The compiled step of one pipeline for one batch size, from the start of its compilation.

    Attributes:
        step: The compiled code, once it is checked and found faster; otherwise None.
        reason: Why it is not used; "" if it is.
        times: Its speedup over the pipeline's own step; 0.0 if that is not known.
        made: Compiled code that has not been checked yet.
    """

    step: CompiledCode | None = None
    reason: str = "it is being compiled"
    times: float = 0.0
    made: CompiledCode | None = None
