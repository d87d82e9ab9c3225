"""A kernel takes a pipeline's steps by faster code: an ONNX graph, machine code, or one pass for several streams."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from adapters import Adapter, AdapterState, Pipeline
from adapters.joint_step import Stepped, step_together
from adapters.network.module_net import ModuleNet
from adapters.pipeline import Fit


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of kernel, with everything that decides whether such a kernel serves.

    Attributes:
        name: The kernel in a sentence.
        rounding: Largest difference of probabilities from the pipeline's. Logits may differ by as much times the
            largest logit.
        worth: Least speedup over the pipeline's own steps.
        differentiates: Whether it computes gradients, so that learned parameters differ by more than rounding.
    """

    name: str
    rounding: float
    worth: float
    differentiates: bool


WORTH = 1.1
"""Least speedup of a kernel that costs something else: memory, or a place in the streams' order."""
GRAPH = Kind("the graph", 1e-3, 1 / WORTH, differentiates=False)
"""ONNX Runtime sums float32 in another order: about 1e-6 a layer. A graph costs nothing else, so it serves unless it is
slower by more than the noise of the measurement."""
MACHINE_CODE = Kind("the machine code", 1e-3, WORTH, differentiates=True)
"""Fused loops sum in another order too, in three steps of which each starts from the last one's parameters."""
JOINT = Kind("the joint step", 1e-4, WORTH, differentiates=True)
"""PyTorch's own operations on a larger batch. A larger difference shows that streams reach each other."""


class Steps(Protocol):
    """Takes a pipeline's steps for one or several streams."""

    def steps(self, states: Sequence[AdapterState], xs: Sequence[Tensor]) -> list[Stepped]:
        """Answer each stream's batch (N, *input_shape) and learn from it; the states are not changed."""


class Kernel(Steps, Protocol):
    """Takes a pipeline's steps by faster code. Each equals the pipeline's own step up to rounding."""

    kind: ClassVar[Kind]


class OneStream(ABC):
    """Takes the steps of several streams one by one."""

    @abstractmethod
    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""

    def steps(self, states: Sequence[AdapterState], xs: Sequence[Tensor]) -> list[Stepped]:
        """Answer each stream's batch (N, *input_shape) and learn from it; the states are not changed."""
        return [self.step(state, x) for state, x in zip(states, xs, strict=True)]


@dataclass(frozen=True)
class OwnSteps(OneStream):
    """A pipeline's own steps on the model that it is fitted to: kernels replace them and are compared with them."""

    pipeline: Pipeline
    fit: Fit

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        adapter: Adapter = self.pipeline
        return adapter.step(self.fit, state, x)


@dataclass(frozen=True)
class JointSteps:
    """Takes the steps of several streams in one pass over the network.

    Attributes:
        own: The pipeline's own steps.
        net: A network that runs a graph for several streams of one image each; None to run PyTorch.
    """

    kind: ClassVar[Kind] = JOINT
    own: OwnSteps
    net: ModuleNet | None = None

    def steps(self, states: Sequence[AdapterState], xs: Sequence[Tensor]) -> list[Stepped]:
        """Answer each stream's batch (N, *input_shape), all of one shape; the states are not changed."""
        net = self.net if len(xs) > 1 and len(xs[0]) == 1 else None
        return step_together(self.own.pipeline, self.own.fit, states, xs, net)


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """Whether a kernel serves, and why not.

    Attributes:
        reason: Why it does not serve; "" if it does.
        kernel: The kernel, once it is made; None if there is none, or it was refused.
        least: The fewest images of a request, for a graph, or the fewest streams, for a joint step, that it takes.
        times: Its speedup over the pipeline's own steps; 0.0 if that was not measured.
    """

    reason: str = ""
    kernel: Kernel | None = None
    least: int = 0
    times: float = 0.0

    def serving(self, count: int) -> Kernel | None:
        """Return the kernel if it serves this many images, or streams."""
        return self.kernel if not self.reason and count >= self.least else None
