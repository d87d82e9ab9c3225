"""Runs a pipeline's graph in ONNX Runtime: the same step up to rounding, at a fraction of the cost."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from adapters.adapter import Adapter, AdapterState, Prepared
from adapters.network.module_net import ModuleNet
from adapters.pipeline import Fit, Pipeline, PipelineState
from adapters.state import flatten, rebuild, stacked
from adapters.values import Forward, NormState, Params, StepOutput
from service.errors import BundleError
from service.models.kernels.graphs.export import AFTER, NORM, SIGNAL, STATE, passed_in
from service.models.onnx_session import session_of

TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit. float32 sums in another order differ by about 1e-6 a layer."""
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


class Compiled(Protocol):
    """Takes a pipeline's steps with a graph."""

    @property
    def session(self) -> Session:
        """The graph."""

    def step(self, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A pipeline whose whole step is one graph."""

    session: Session

    def step(self, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        named, after = self.session.run(x, flatten(state))
        signals = {name.removeprefix(SIGNAL): value for name, value in named.items() if name.startswith(SIGNAL)}
        return StepOutput(named["logits"], named["probabilities"], signals), rebuild(state, after)


class CompiledPass:
    """A pipeline that answers with a graph, and learns with PyTorch from the images that it selects."""

    def __init__(self, session: Session, pipeline: Pipeline, fit: Fit) -> None:
        self.session = session
        self._pipeline = pipeline
        self._fit = replace(fit, net=fit.net.run_by(partial(_observe, session)))

    def step(self, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        if not isinstance(state, PipelineState):
            raise TypeError(f"the state is a {type(state).__name__}, expected a pipeline's")
        return self._pipeline.step(self._fit, state, x)


def _observe(session: Session, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
    """Run the graph of a pass on x (N, *input_shape) as the next batch."""
    named, after = session.run(x, passed_in(params, norm))
    forward = Forward(named["logits"], named["features"], named.get(f"{SIGNAL}drift"))
    statistics = {name.removeprefix(NORM): tensor for name, tensor in after.items() if name.startswith(NORM)}
    return forward, rebuild(norm, statistics)


def checked_streams(session: Session, net: ModuleNet, learned: Params, sample: Tensor) -> ModuleNet:
    """Return a network for several streams of one image each that runs a graph, after comparing the two.

    Args:
        session: The graph.
        net: The network of one stream.
        learned: The initial values of the parameters that each stream learns for itself.
        sample: Inputs (N, *input_shape), at least as many as the largest of `TRIED_STREAMS`.

    Raises:
        BundleError: If the graph's outputs or statistics differ from the network's by more than rounding.
    """
    together = net.of_streams(1)
    for streams in TRIED_STREAMS:
        states = [net.observe(learned, net.initial_norm, image[None])[1] for image in sample[-streams:]]
        norm, params = stacked(states), stacked([learned] * streams)
        expected, after = together.observe(params, norm, sample[:streams])
        try:
            actual, graph_after = _observe(session, params, norm, sample[:streams])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
            raise BundleError(f"the graph fails for {streams} streams: {str(error)[:200]}") from None
        if not (_alike(_fields(actual), _fields(expected)) and _alike(flatten(graph_after), flatten(after))):
            raise BundleError(f"with {streams} streams the graph's results differ from the network's")
    return together.run_by(partial(_observe, session))


def _fields(forward: Forward) -> dict[str, Tensor]:
    return {name: value for name, value in vars(forward).items() if value is not None}


def least_images(compiled: Compiled, adapter: Adapter, prepared: Prepared[AdapterState], sample: Tensor) -> int:
    """Return the smallest tried batch size at which, as at all larger ones, a graph's steps equal its pipeline's.

    Some parts treat very small batches differently. Their graphs then hold only for larger batches, and the pipeline
    itself serves the small ones.

    Args:
        compiled: The graph.
        adapter: The pipeline.
        prepared: The pipeline fitted to the model.
        sample: Inputs (N, *input_shape), at least as many as the largest of `TRIED`.

    Raises:
        BundleError: If the graph differs even at the largest of `TRIED`.
    """
    least, difference = 0, ""
    for images in TRIED:
        difference = _difference(compiled, adapter, prepared, sample[:images], sample[-images:])
        if difference:
            break
        least = images
    if not least:
        raise BundleError(f"with {TRIED[0]} images {difference}")
    return least


def check(compiled: Compiled, adapter: Adapter, prepared: Prepared[AdapterState], x: Tensor) -> None:
    """Compare one step on x (N, *input_shape) by the graph with the pipeline's.

    Raises:
        BundleError: If they differ by more than rounding.
    """
    difference = _difference(compiled, adapter, prepared, x)
    if difference:
        raise BundleError(f"with {len(x)} images {difference}")


def _difference(compiled: Compiled, adapter: Adapter, prepared: Prepared[AdapterState], *batches: Tensor) -> str:
    """Take steps by both, and describe the first difference beyond rounding; "" if there is none."""
    state = graph_state = adapter.init(prepared)
    for x in batches:
        expected, state = adapter.step(prepared, state, x)
        try:
            actual, graph_state = compiled.step(graph_state, x)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
            return f"the graph fails: {str(error)[:200]}"
        scale = max(1.0, float(expected.logits.abs().max()))
        for name in ("logits", "probabilities"):
            difference = float((getattr(actual, name) - getattr(expected, name)).abs().max())
            if not difference <= TOLERANCE * scale:
                return f"the graph's {name} are {difference:.2g} from the pipeline's"
        if not _alike(flatten(graph_state), flatten(state)):
            return "the graph's state is not the pipeline's"
        if not _alike(actual.signals, expected.signals):
            return "the graph's signals are not the pipeline's"
    return ""


def _alike(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return actual.keys() == expected.keys() and all(
        actual[name].dtype == tensor.dtype and torch.allclose(actual[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)
        for name, tensor in expected.items()
    )
