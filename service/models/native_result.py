"""What was compiled for a pipeline and a size of batch, or why not."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped


class Made(Protocol):
    """Takes a pipeline's steps, by what was compiled."""

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""


@dataclass(slots=True)
class Native:
    """The compiled step of one pipeline for one size of batch, from the wish on.

    Attributes:
        step: What serves, once it has been judged; None while it is made, or if it does not serve.
        reason: Why it does not; "" where it does.
        times: How many times faster than the pipeline's own step it is; 0.0 if that is not known.
        made: What was compiled, and awaits judgement.
    """

    step: Made | None = None
    reason: str = "it is being compiled"
    times: float = 0.0
    made: Made | None = None
