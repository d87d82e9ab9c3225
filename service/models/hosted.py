"""A hosted model: its bundle, its source model, and the pipelines fitted to it."""

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adapters import Adapter, AdapterState, Prepared, SourceModel, create
from adapters.errors import AdapterError
from adapters.joint_step import Stepped
from adapters.network.fidelity import Fidelity
from adapters.network.source_observer import Watch
from adapters.registry import parse
from adapters.source import USUAL_BATCH
from adapters.state import size_bytes
from adapters.values import StepOutput
from service.errors import BundleError, UnfitError
from service.models import torch_model
from service.models.bundle import Bundle
from service.models.gradient_trials import Trials, trials_of
from service.models.kernels.capabilities import Capabilities, capabilities
from service.models.kernels.graphs.cache import Graphs, Wanted
from service.models.kernels.graphs.step import TRIED
from service.models.kernels.kernel import JointSteps, KernelStatus, OneStream
from service.models.load_checks import check_copies, check_outputs, samples
from service.models.onnx import onnx_model
from service.models.reference import reference_of
from service.telemetry.logs import log

FISHER = "fisher."
COMPILED = "compiled"
ONNX = "onnx"
FROZEN = "source"
"""The normalizer of pipelines that learn nothing."""
MAX_FITTED = 64
"""Most fitted pipelines kept per model. They share the weights, but each needs a module tree."""


@dataclass(slots=True)
class Kernels:
    """The kernels of a fitted pipeline.

    Attributes:
        can: Which kernels the pipeline can have.
        graph: Its ONNX graph.
        joint: Its joint step, before that is measured; None if it has none.
        native: Its machine code, by images per request. Empty until a size is frequent.
        joined: Its joint step, by images per request. Empty until requests could share a step.
    """

    can: Capabilities
    graph: KernelStatus
    joint: JointSteps | None
    native: dict[int, KernelStatus] = field(default_factory=dict)
    joined: dict[int, KernelStatus] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Fitted(OneStream):
    """A pipeline fitted to a model, with the functions that serve a stream.

    Attributes:
        adapter: The pipeline.
        prepared: The pipeline's fit to the model.
        options: The options that the pipeline was made with.
        fisher: The model's Fisher diagonal for the pipeline's normalizer, by parameter; empty if there is none.
        runtime: The runtime without kernels: torch or onnx.
        kernels: Its kernels.
    """

    adapter: Adapter
    prepared: Prepared[Any]
    options: Mapping[str, Any]
    fisher: Mapping[str, Tensor]
    runtime: str
    kernels: Kernels

    @property
    def spec(self) -> str:
        """The canonical full spec."""
        return str(self.adapter.spec)

    @property
    def degraded(self) -> str:
        """What the pipeline lacks on this model; "" if nothing."""
        return self.prepared.degraded

    @property
    def backend(self) -> str:
        """The backend: torch, onnx, or compiled if a graph takes the steps of large enough batches."""
        return self.runtime if self.kernels.graph.reason else COMPILED

    def explain(self, state: AdapterState) -> str:
        """Return a selector's reason for its choice of pipeline; "" for a single pipeline."""
        return self.adapter.explain(self.prepared, state)

    @property
    def state_bytes(self) -> int:
        """Size in bytes of the state before any batch. Most learners' states do not grow."""
        return size_bytes(self.initial())

    def initial(self) -> AdapterState:
        """Return the state before any batch."""
        state: AdapterState = self.adapter.init(self.prepared)
        return state

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x and learn from it."""
        graph = self.kernels.graph.serving(len(x))
        return self.adapter.step(self.prepared, state, x) if graph is None else graph.steps([state], [x])[0]

    def predict(self, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer x without learning."""
        graph = self.kernels.graph.serving(len(x))
        if graph is not None and self.adapter.spec.normalizer == FROZEN:
            return graph.steps([state], [x])[0][0]  # a frozen model's step is its prediction
        return self.adapter.predict(self.prepared, state, x)

    def probe(self, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer x, source images, to measure how well the adapted parameters still serve the source."""
        return self.adapter.probe(self.prepared, state, x)


class HostedModel:
    """A served bundle. It fits pipelines on demand and keeps the most recently used ones.

    `source` is the PyTorch model that pipelines adapt. Pipelines that only change its outputs run the shipped model.
    """

    def __init__(
        self, bundle: Bundle, shipped: SourceModel, graphs: Graphs | None = None, trials: Trials | None = None
    ) -> None:
        self.bundle = bundle
        self._trials = trials_of(trials, bundle, shipped.network)
        self._fidelity = Fidelity(shipped, samples(shipped))
        check_outputs(self._fidelity, shipped)
        self.source = source = _opened(bundle, shipped)
        self._shipped = shipped if bundle.toml.model.kind == ONNX else source
        self._graphs = graphs
        self._fitted: OrderedDict[str, Fitted] = OrderedDict()
        self._source = self.fit("source", {})
        self.watch = Watch(source, USUAL_BATCH)
        self.reference = reference_of(source, self.watch)
        self.default = self.fit(bundle.toml.adapter, {})
        for spec in graphs.specs if graphs is not None else ():
            self._fit_listed(spec)

    @property
    def name(self) -> str:
        """The model's name on the wire."""
        return self.bundle.name

    @property
    def backend(self) -> str:
        """The model's backend: torch or onnx."""
        return self.bundle.toml.model.kind

    @property
    def fitted(self) -> list[Fitted]:
        """The fitted pipelines, sorted by spec and options."""
        return sorted(self._fitted.values(), key=lambda each: (each.spec, str(each.options)))

    def fit(self, spec: str, options: Mapping[str, Any]) -> Fitted:
        """Return the pipeline with a spec and options, fitted to this model.

        Raises:
            UnfitError: If the spec or an option is invalid, the model lacks something that a part needs, or a trial of
                its gradient steps has failed.
        """
        try:
            adapter = create(spec, **options)
            key = json.dumps([str(adapter.spec), options], sort_keys=True)
            if key not in self._fitted:
                self._fitted[key] = self._fit_new(adapter, options)
        except AdapterError as error:
            raise UnfitError(str(error)) from None
        self._fitted.move_to_end(key)
        while len(self._fitted) > MAX_FITTED:
            self._fitted.popitem(last=False)
        return self._fitted[key]

    async def try_ahead(self, spec: str, options: Mapping[str, Any], place: AbstractContextManager[None]) -> None:
        """Run the trial that `fit` would run, in a child process and without blocking the event loop or the worker.

        Args:
            spec: The pipeline. An invalid spec is ignored here; `fit` reports it.
            options: Its options.
            place: A context to enter while waiting for the trial.

        Raises:
            UnfitError: If the trial's process crashed or timed out.
            DeadlineError: If the wait is too long.
        """
        if self._trials is None:
            return
        try:
            adapter = create(spec, **options)
        except AdapterError:
            return
        if self._trials.is_due(adapter):
            with place:
                await self._trials.ahead(adapter, options)

    def _fit_new(self, adapter: Adapter, options: Mapping[str, Any]) -> Fitted:
        as_shipped = onnx_model.runs_as_shipped(adapter.spec)
        prepared = adapter.prepare(self._shipped if as_shipped else self.source)
        check_copies(self._fidelity, prepared)
        if self._trials is not None:
            self._trials.check(adapter, options)
        fisher = _fisher(self.source, adapter.spec.normalizer)
        kernels = self._kernels(capabilities(adapter, prepared), listed=not options and self._is_listed(adapter))
        return Fitted(adapter, prepared, dict(options), fisher, self.backend if as_shipped else "torch", kernels)

    def _is_listed(self, adapter: Adapter) -> bool:
        """Return whether missing graphs of a pipeline are made."""
        listed = (FROZEN, self.bundle.toml.adapter, *(self._graphs.specs if self._graphs is not None else ()))
        return str(adapter.spec) in {str(parse(spec)) for spec in listed}

    def _kernels(self, can: Capabilities, *, listed: bool) -> Kernels:
        """Return a pipeline's kernels; missing graphs are made for listed pipelines."""
        graph, net = KernelStatus(can.graph), None
        if self._graphs is None:
            graph = KernelStatus("the server runs without graphs")
        elif can.own is not None:
            wanted = Wanted(self.bundle, can.own, self.sample(max(TRIED)))
            net = self._graphs.of_streams(wanted, make=listed) if can.joint_graph else None
            graph = graph if can.graph else self._graphs.get(wanted, make=listed)
        return Kernels(can, graph, JointSteps(can.own, net) if can.own is not None and not can.joint else None)

    def _fit_listed(self, spec: str) -> None:
        """Fit a listed pipeline at start, so that its graph is made; log a warning if the model does not support it."""
        try:
            self.fit(spec, {})
        except UnfitError as error:
            log.warning("graph_not_made", model=self.name, adapter=spec, reason=str(error))

    def answer_as_source(self, x: Tensor) -> StepOutput:
        """Answer x (N, C, H, W) with the frozen source model."""
        return self._source.predict(self._source.initial(), x)

    def sample(self, batch: int = 2) -> Tensor:
        """Return a random batch (batch, C, H, W) within the value range, with a fixed seed."""
        low, high = self.bundle.input.value_range
        generator = torch.Generator().manual_seed(0)
        return low + (high - low) * torch.rand(batch, *self.bundle.input.shape, generator=generator)


def _fisher(source: SourceModel, normalizer: str) -> dict[str, Tensor]:
    fitting = source.fitted_to(normalizer).artefacts
    return {name.removeprefix(FISHER): tensor for name, tensor in fitting.items() if name.startswith(FISHER)}


def host(
    bundle: Bundle,
    allow_factories: Collection[str],
    threads: int,
    graphs: Graphs | None = None,
    trials: Trials | None = None,
) -> HostedModel:
    """Load a bundle's model and try it on a sample.

    Args:
        bundle: The bundle.
        allow_factories: The model factories that bundles may name.
        threads: ONNX Runtime's number of threads.
        graphs: The cache of graphs; None to run all pipelines in PyTorch.
        trials: Tries gradient steps through custom network code in a child process first; None to skip that.

    Raises:
        BundleError: If the model cannot be loaded, cannot run, or its outputs contradict bundle.toml.
    """
    shipped = _shipped(bundle, allow_factories, threads)
    try:
        model = HostedModel(bundle, shipped, graphs, trials)
        logits = model.answer_as_source(model.sample()).logits
        # PyTorch's first gradient takes seconds, so take it before the first request.
        model.default.step(model.default.initial(), model.sample())
    except (UnfitError, AdapterError) as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    except Exception as error:
        raise BundleError(f"{bundle.path} fails on a sample of shape {bundle.input.shape}: {error}") from error
    classes = len(bundle.classes)
    if logits.shape != (2, classes):
        raise BundleError(f"{bundle.path} answers {tuple(logits.shape)} to two images, expected (2, {classes})")
    if not bool(torch.isfinite(logits).all()):
        raise BundleError(f"{bundle.path} answers a random sample with values that are not finite")
    return model


def load_source(bundle: Bundle, allow_factories: Collection[str], threads: int) -> SourceModel:
    """Load a bundle's source model. An ONNX model is rebuilt in PyTorch if possible.

    Raises:
        BundleError: If it cannot be loaded.
    """
    return _opened(bundle, _shipped(bundle, allow_factories, threads))


def _opened(bundle: Bundle, shipped: SourceModel) -> SourceModel:
    return onnx_model.opened(bundle, shipped) if bundle.toml.model.kind == ONNX else shipped.widened()


def _shipped(bundle: Bundle, allow_factories: Collection[str], threads: int) -> SourceModel:
    if bundle.toml.model.kind == "torch":
        return torch_model.load(bundle, allow_factories)
    return onnx_model.load(bundle, threads)
