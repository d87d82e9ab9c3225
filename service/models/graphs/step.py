"""Runs a pipeline's graph in ONNX Runtime: the pipeline's own step, to rounding, at a fraction of its cost."""

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
from service.models.graphs.export import AFTER, NORM, SIGNAL, STATE, passed_in
from service.models.onnx_session import session_of

TOLERANCE = 1e-3
"""Of logits, beside the largest one: float32 sums in another order differ by some 1e-6 a layer."""
TRIED_STREAMS = (2, 7, 40)
"""Streams in the passes by which a graph of several is compared with the network."""
TRIED = (40, 8, 7, 6, 5, 4, 3, 2, 1)
"""Images in the batches by which a graph is compared with its pipeline: it may hold for more than a few alone."""


class Session:
    """One graph, open. Keeps no state between runs.

    Attributes:
        facts: What the graph tells of itself.
        reads: The names of the tensors that it takes beside its inputs.

    Args:
        content: An ONNX file that `graph` has made.
        threads: Of ONNX Runtime.

    Raises:
        BundleError: If the content is no such graph.
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
            raise BundleError(f"this graph takes {inputs[:3]} and gives {self._outputs[:3]}: it is no pipeline's")

    def run(self, x: Tensor, before: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run it on x (N, *input_shape) and named tensors; return its outputs, and these tensors after it."""
        fed = {name: before[name.removeprefix(STATE)].contiguous().numpy() for name in self.reads}
        found = self._session.run(self._outputs, {self._input: x.contiguous().numpy(), **fed})
        named = {name: torch.as_tensor(value) for name, value in zip(self._outputs, found, strict=True)}
        return named, {name: named.get(f"{STATE}{name}{AFTER}", tensor) for name, tensor in before.items()}


class Compiled(Protocol):
    """Takes a pipeline's steps, by a graph."""

    @property
    def session(self) -> Session:
        """The graph."""

    def step(self, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A pipeline whose whole step is a graph."""

    session: Session

    def step(self, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""
        named, after = self.session.run(x, flatten(state))
        signals = {name.removeprefix(SIGNAL): value for name, value in named.items() if name.startswith(SIGNAL)}
        return StepOutput(named["logits"], named["probabilities"], signals), rebuild(state, after)


class CompiledPass:
    """A pipeline that answers by a graph, and learns by PyTorch from the images that it chooses."""

    def __init__(self, session: Session, pipeline: Pipeline, fit: Fit) -> None:
        self.session = session
        self._pipeline = pipeline
        self._fit = replace(fit, net=fit.net.run_by(partial(_observe, session)))

    def step(self, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""
        if not isinstance(state, PipelineState):
            raise TypeError(f"the state is a {type(state).__name__}, expected a pipeline's")
        return self._pipeline.step(self._fit, state, x)


def _observe(session: Session, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
    """Run x (N, *input_shape) as the next batch by a pass's graph."""
    named, after = session.run(x, passed_in(params, norm))
    seen = Forward(named["logits"], named["features"], named.get(f"{SIGNAL}drift"))
    kept = {name.removeprefix(NORM): tensor for name, tensor in after.items() if name.startswith(NORM)}
    return seen, rebuild(norm, kept)


def checked_streams(session: Session, net: ModuleNet, learned: Params, sample: Tensor) -> ModuleNet:
    """Return the network of several streams of one image each, whose pass is a graph, once it has passed as that does.

    Args:
        session: The graph.
        net: The network of one stream.
        learned: The parameters that each stream has of its own, as they begin.
        sample: Inputs (N, *input_shape), as many as the most that are tried.

    Raises:
        BundleError: If it does not pass as the network, to rounding.
    """
    together = net.of_streams(1)
    for streams in TRIED_STREAMS:
        states = [net.observe(learned, net.initial_norm, image[None])[1] for image in sample[-streams:]]
        norm, params = stacked(states), stacked([learned] * streams)
        wanted, after = together.observe(params, norm, sample[:streams])
        try:
            given, ours = _observe(session, params, norm, sample[:streams])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
            raise BundleError(f"the graph fails for {streams} streams: {str(error)[:200]}") from None
        if not (_alike(_fields(given), _fields(wanted)) and _alike(flatten(ours), flatten(after))):
            raise BundleError(f"the graph of {streams} streams passes otherwise than the network")
    return together.run_by(partial(_observe, session))


def _fields(forward: Forward) -> dict[str, Tensor]:
    return {name: value for name, value in vars(forward).items() if value is not None}


def least_images(compiled: Compiled, adapter: Adapter, prepared: Prepared[AdapterState], sample: Tensor) -> int:
    """Return the fewest images that a graph answers and learns from as its pipeline does, to rounding.

    A part whose code treats a few images otherwise has a graph for more; the pipeline itself serves those few.

    Args:
        compiled: The graph.
        adapter: The pipeline that it should be.
        prepared: That, fitted to the model.
        sample: Inputs (N, *input_shape), at least as many as are tried.

    Raises:
        BundleError: If the graph differs for all that are tried.
    """
    least, differing = 0, ""
    for images in TRIED:
        differing = _difference(compiled, adapter, prepared, sample[:images], sample[-images:])
        if differing:
            break
        least = images
    if not least:
        raise BundleError(f"with {TRIED[0]} images {differing}")
    return least


def check(compiled: Compiled, adapter: Adapter, prepared: Prepared[AdapterState], x: Tensor) -> None:
    """Take a step on x (N, *input_shape) by both.

    Raises:
        BundleError: If they differ by more than rounding.
    """
    differing = _difference(compiled, adapter, prepared, x)
    if differing:
        raise BundleError(f"with {len(x)} images {differing}")


def _difference(compiled: Compiled, adapter: Adapter, prepared: Prepared[AdapterState], *batches: Tensor) -> str:
    """Take steps by both, and tell where they differ by more than rounding; "" if nowhere."""
    state = ours = adapter.init(prepared)
    for x in batches:
        wanted, state = adapter.step(prepared, state, x)
        try:
            given, ours = compiled.step(ours, x)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
            return f"the graph fails: {str(error)[:200]}"
        scale = max(1.0, float(wanted.logits.abs().max()))
        for name in ("logits", "probabilities"):
            apart = float((getattr(given, name) - getattr(wanted, name)).abs().max())
            if not apart <= TOLERANCE * scale:
                return f"the graph's {name} are {apart:.2g} from the pipeline's"
        for what, mine, other in (("state", flatten(ours), flatten(state)), ("signals", given.signals, wanted.signals)):
            if not _alike(mine, other):
                return f"the graph's {what} are not the pipeline's"
    return ""


def _alike(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return given.keys() == wanted.keys() and all(
        given[name].dtype == tensor.dtype and torch.allclose(given[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)
        for name, tensor in wanted.items()
    )
