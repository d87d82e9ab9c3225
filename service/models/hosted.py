"""A hosted model: its bundle, its source model, and the pipelines fitted to it."""

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from adapters import Adapter, AdapterState, Prepared, SourceModel, create
from adapters.errors import AdapterError
from adapters.joint_step import Stepped, step_together, why_not
from adapters.network.fidelity import Fidelity
from adapters.network.module_net import ModuleNet
from adapters.network.source_observer import Watch
from adapters.registry import parse
from adapters.source import USUAL_BATCH
from adapters.state import size_bytes
from adapters.values import StepOutput
from service.errors import BundleError, UnfitError
from service.models import torch_model
from service.models.batching_speedup import Gain
from service.models.bundle import Bundle
from service.models.gradient_trials import Trials, trials_of
from service.models.graphs.cache import Graph, Graphs, Wanted
from service.models.graphs.step import TRIED
from service.models.load_checks import check_copies, check_outputs, samples
from service.models.native_result import Native
from service.models.onnx import onnx_model
from service.models.reference import reference_of
from service.telemetry.logs import log

FISHER = "fisher."
COMPILED = "compiled"
ONNX = "onnx"
FROZEN = "source"
"""The normalizer under which nothing is learned."""
MAX_FITTED = 64
"""Most pipelines kept fitted per model; each shares the weights, and costs a module tree."""


@dataclass(frozen=True)
class Fitted:
    """A pipeline fitted to a model: the functions a stream is served by.

    `fisher` is the model's Fisher diagonal for the pipeline's normalizer, by parameter; empty if there is none.
    `backend` is what runs it: torch, onnx, or compiled, where `graph` takes the steps of enough images; where it has no
    graph, `not_compiled` says why. `gains` tells by images per request what it brings to take several streams' steps as
    one, as far as it was measured; `streams` is the network whose pass over those that send one image each is a graph.
    `native` holds compiled steps of learners by gradient, by images per request.
    """

    adapter: Adapter
    prepared: Prepared[Any]
    options: Mapping[str, Any]
    fisher: Mapping[str, Tensor]
    backend: str
    graph: Graph | None = None
    not_compiled: str = ""
    streams: ModuleNet | None = None
    native: dict[int, Native] = field(default_factory=dict, compare=False)
    gains: dict[int, Gain] = field(default_factory=dict, compare=False)

    @property
    def spec(self) -> str:
        """The canonical full spec."""
        return str(self.adapter.spec)

    @property
    def degraded(self) -> str:
        """What the pipeline does without on this model; "" if nothing."""
        return self.prepared.degraded

    @property
    def not_grouped(self) -> str:
        """Why steps of several streams are never taken as one; "" where it is a matter of what that brings."""
        return "the model is an ONNX graph" if self.backend == ONNX else why_not(self.adapter)

    def explain(self, state: AdapterState) -> str:
        """Return in words why a stream is served as it is; "" where nothing is chosen."""
        return self.adapter.explain(self.prepared, state)

    @property
    def state_bytes(self) -> int:
        """Bytes of a state's tensors before any batch; most learners' states stay as large."""
        return size_bytes(self.initial())

    def initial(self) -> AdapterState:
        """Return the state before any batch."""
        state: AdapterState = self.adapter.init(self.prepared)
        return state

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x and learn from it."""
        if self.graph is not None and len(x) >= self.graph.least_images:
            return self.graph.step.step(state, x)
        return self.adapter.step(self.prepared, state, x)

    def step_together(self, states: Sequence[AdapterState], xs: Sequence[Tensor]) -> list[Stepped]:
        """Take the steps of several streams as one, to rounding what each would be by itself."""
        net = self.streams if len(xs) > 1 and len(xs[0]) == 1 else None
        return step_together(self.adapter, self.prepared, states, xs, net)

    def predict(self, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer x without learning."""
        if self.graph is not None and self.adapter.spec.normalizer == FROZEN and len(x) >= self.graph.least_images:
            return self.graph.step.step(state, x)[0]  # the frozen model answers the same either way
        return self.adapter.predict(self.prepared, state, x)

    def probe(self, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer x, images of the source, to measure what the parameters have become."""
        return self.adapter.probe(self.prepared, state, x)


class HostedModel:
    """Serves one bundle; fits pipelines to it on demand and keeps the latest ones.

    `source` is the model that pipelines reach into; those that take its answers as they are run the model as shipped.
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
        """What runs the model: torch or onnx."""
        return self.bundle.toml.model.kind

    @property
    def fitted(self) -> list[Fitted]:
        """The pipelines that are fitted, by spec and options."""
        return sorted(self._fitted.values(), key=lambda each: (each.spec, str(each.options)))

    def fit(self, spec: str, options: Mapping[str, Any]) -> Fitted:
        """Return the pipeline of a spec and options, fitted to this model.

        Raises:
            UnfitError: If the spec or an option is wrong, or the model lacks what a part needs.
        """
        try:
            adapter = create(spec, **options)
            key = json.dumps([str(adapter.spec), options], sort_keys=True)
            if key not in self._fitted:
                fitted = self._fit_anew(adapter, options)
                if self._trials is not None:
                    self._trials.check(adapter, options)
                self._fitted[key] = self._compiled(fitted)
        except AdapterError as error:
            raise UnfitError(str(error)) from None
        self._fitted.move_to_end(key)
        while len(self._fitted) > MAX_FITTED:
            self._fitted.popitem(last=False)
        return self._fitted[key]

    async def try_ahead(self, spec: str, options: Mapping[str, Any], place: AbstractContextManager[None]) -> None:
        """Try a pipeline's gradient steps in a child process if `fit` would do so, off the event loop and the worker.

        Args:
            spec: The pipeline; if it is wrong, `fit` says so.
            options: Its options.
            place: Entered while the trial is waited for.

        Raises:
            UnfitError: If the trial's process was ended.
            DeadlineError: If it takes too long.
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

    def _fit_anew(self, adapter: Adapter, options: Mapping[str, Any]) -> Fitted:
        as_shipped = onnx_model.runs_as_shipped(adapter.spec)
        prepared = adapter.prepare(self._shipped if as_shipped else self.source)
        check_copies(self._fidelity, prepared)
        fisher = _fisher(self.source, adapter.spec.normalizer)
        return Fitted(adapter, prepared, dict(options), fisher, self.backend if as_shipped else "torch")

    def _compiled(self, fitted: Fitted) -> Fitted:
        """Return a pipeline with its graph, where there is one or one is to be made."""
        if self._graphs is None:
            return replace(fitted, not_compiled="the server runs without graphs")
        specs = (FROZEN, self.bundle.toml.adapter, *self._graphs.specs)
        listed = not fitted.options and fitted.spec in {str(parse(spec)) for spec in specs}
        wanted = Wanted(self.bundle, fitted.adapter, fitted.prepared, self.sample(max(TRIED)))
        fitted = replace(fitted, streams=self._graphs.of_streams(wanted, make=listed))
        try:
            return replace(fitted, backend=COMPILED, graph=self._graphs.get(wanted, make=listed))
        except UnfitError as error:
            return replace(fitted, not_compiled=str(error))

    def _fit_listed(self, spec: str) -> None:
        """Fit a pipeline before it is asked for, so that its graph is there; not every model takes it."""
        try:
            self.fit(spec, {})
        except UnfitError as error:
            log.warning("graph_not_made", model=self.name, adapter=spec, reason=str(error))

    def answer_as_source(self, x: Tensor) -> StepOutput:
        """Answer x (N, C, H, W) by the frozen source model."""
        return self._source.predict(self._source.initial(), x)

    def sample(self, batch: int = 2) -> Tensor:
        """Return a made batch (batch, C, H, W) within the value range, always the same."""
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
    """Load a bundle's model and try it on a sample; with `graphs`, its pipelines run compiled where they can.

    With `trials`, gradient steps through a network with code of its own are taken in a child process first.

    Raises:
        BundleError: If the model cannot be loaded, cannot run, or answers other than bundle.toml says.
    """
    shipped = _shipped(bundle, allow_factories, threads)
    try:
        model = HostedModel(bundle, shipped, graphs, trials)
        logits = model.answer_as_source(model.sample()).logits
        model.default.step(
            model.default.initial(), model.sample()
        )  # PyTorch's first gradient takes seconds: take it now
    except (UnfitError, AdapterError) as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    except Exception as error:
        raise BundleError(f"{bundle.path} fails on a sample of shape {bundle.input.shape}: {error}") from error
    classes = len(bundle.classes)
    if logits.shape != (2, classes):
        raise BundleError(f"{bundle.path} answers {tuple(logits.shape)} to two images, expected (2, {classes})")
    if not bool(torch.isfinite(logits).all()):
        raise BundleError(f"{bundle.path} answers a made sample by values that are not finite")
    return model


def load_source(bundle: Bundle, allow_factories: Collection[str], threads: int) -> SourceModel:
    """Load a bundle's source model, its inside open where it can be.

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
