"""Runs a pipeline's graph in ONNX Runtime: the same step up to rounding, at a fraction of the cost."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.state import flatten, rebuild
from adapters.values import Forward, NormState, Params, StepOutput
from service.errors import BundleError
from service.models.kernels.graphs.export import AFTER, NORM, SIGNAL, STATE, passed_in
from service.models.kernels.kernel import GRAPH, JointSteps, Kind, OneStream, OwnSteps
from service.models.kernels.verify import verify
from service.models.onnx_session import session_of

TRIED_STREAMS = (2, 7, 40)
"""Numbers of streams that a graph for several streams is compared with the network on."""
TRIED = (40, 8, 7, 6, 5, 4, 3, 2, 1)
"""Batch sizes that a graph is compared with its pipeline on. A graph may be wrong for small batches only."""


class Session:
    """One open graph. It keeps no state between runs.

    Attributes:
        facts: The metadata of the graph.
        reads: The names of its inputs other than the images.

    Args:
        content: An ONNX file that `export` has made.
        threads: ONNX Runtime's number of threads.

    Raises:
        BundleError: If the content is not such a file.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        try:
            self._session = session_of(content, threads)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
            raise BundleError(f"this is no graph that ONNX Runtime can run: {error}") from None
        self.facts: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._input = next((name for name in inputs if not name.startswith(STATE)), "")
        self.reads = [name for name in inputs if name.startswith(STATE)]
        if not self._input or "logits" not in self._outputs:
            raise BundleError(
                f"this graph has inputs {inputs[:3]} and outputs {self._outputs[:3]}: it is not the graph of a pipeline"
            )

    def run(self, x: Tensor, before: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run the graph on x (N, *input_shape) and the state by name; return its outputs and the state after it."""
        feeds = {name: before[name.removeprefix(STATE)].contiguous().numpy() for name in self.reads}
        values = self._session.run(self._outputs, {self._input: x.contiguous().numpy(), **feeds})
        named = {name: torch.as_tensor(value) for name, value in zip(self._outputs, values, strict=True)}
        return named, {name: named.get(f"{STATE}{name}{AFTER}", tensor) for name, tensor in before.items()}


@dataclass(frozen=True, slots=True)
class CompiledStep(OneStream):
    """A pipeline whose whole step is one graph."""

    kind: ClassVar[Kind] = GRAPH
    session: Session

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        named, after = self.session.run(x, flatten(state))
        signals = {name.removeprefix(SIGNAL): value for name, value in named.items() if name.startswith(SIGNAL)}
        return StepOutput(named["logits"], named["probabilities"], signals), rebuild(state, after)


class CompiledPass(OneStream):
    """A pipeline that answers with a graph, and learns with PyTorch from the images that it selects."""

    kind: ClassVar[Kind] = GRAPH

    def __init__(self, session: Session, own: OwnSteps) -> None:
        self.session = session
        self._own = replace(own, fit=replace(own.fit, net=own.fit.net.run_by(partial(observe, session))))

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        return self._own.step(state, x)


GraphKernel: TypeAlias = CompiledStep | CompiledPass


def observe(session: Session, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
    """Run the graph of a pass on x (N, *input_shape) as the next batch."""
    named, after = session.run(x, passed_in(params, norm))
    forward = Forward(named["logits"], named["features"], named.get(f"{SIGNAL}drift"))
    statistics = {name.removeprefix(NORM): tensor for name, tensor in after.items() if name.startswith(NORM)}
    return forward, rebuild(norm, statistics)


def verify_at(kernel: GraphKernel, own: OwnSteps, sample: Tensor, images: int) -> str:
    """Compare two steps on `images` of the sample (N, *input_shape); return how they differ from the pipeline's, or "".

    Some parts treat very small batches differently. Their graphs then hold only for larger batches.
    """
    reason = verify(kernel, own, [own.fit.initial], [[sample[:images]], [sample[-images:]]])
    return f"with {images} images {reason}" if reason else ""


def verify_streams(joint: JointSteps, sample: Tensor) -> str:
    """Compare a graph for several streams of one image each with PyTorch; return how it differs, or "".

    Args:
        joint: The joint steps that run the graph.
        sample: Inputs (N, *input_shape), at least as many as the largest of `TRIED_STREAMS`.
    """
    initial, alone = joint.own.fit.initial, replace(joint, net=None)
    rounds = ([torch.split(some, 1) for some in (sample[:count], sample[-count:])] for count in TRIED_STREAMS)
    reasons = (verify(joint, alone, [initial] * len(each[0]), each) for each in rounds)
    return next(filter(None, reasons), "")
