"""A hosted model: its bundle, its source model, and the pipelines fitted to it."""

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters import Adapter, AdapterState, Prepared, SourceModel, create
from adapters.base import StepOutput
from adapters.errors import AdapterError
from adapters.source import USUAL_BATCH
from adapters.watch import Watch
from service.backends import onnx, torch_module
from service.bundles import Bundle
from service.errors import BundleError, UnfitError
from service.reference import reference_of

FISHER = "fisher."
MAX_FITTED = 64
"""Most pipelines kept fitted per model; each shares the weights, and costs a module tree."""


@dataclass(frozen=True)
class Fitted:
    """A pipeline fitted to a model: the functions a stream is served by.

    `fisher` is the model's Fisher diagonal for the pipeline's normalizer, by parameter; empty if there is none.
    """

    adapter: Adapter
    prepared: Prepared[Any]
    options: Mapping[str, Any]
    fisher: Mapping[str, Tensor]

    @property
    def spec(self) -> str:
        """The canonical full spec."""
        return str(self.adapter.spec)

    @property
    def degraded(self) -> str:
        """What the pipeline does without on this model; "" if nothing."""
        return self.prepared.degraded

    def explain(self, state: AdapterState) -> str:
        """Return in words why a stream is served as it is; "" where nothing is chosen."""
        return self.adapter.explain(self.prepared, state)

    def initial(self) -> AdapterState:
        """Return the state before any batch."""
        state: AdapterState = self.adapter.init(self.prepared)
        return state

    def step(self, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x and learn from it."""
        return self.adapter.step(self.prepared, state, x)

    def predict(self, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer x without learning."""
        return self.adapter.predict(self.prepared, state, x)

    def probe(self, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer x, images of the source, to measure what the parameters have become."""
        return self.adapter.probe(self.prepared, state, x)


class HostedModel:
    """Serves one bundle; fits pipelines to it on demand and keeps the latest ones."""

    def __init__(self, bundle: Bundle, source: SourceModel) -> None:
        self.bundle = bundle
        self.source = source
        self._fitted: OrderedDict[str, Fitted] = OrderedDict()
        self._source = self.fit("source", {})
        self.watch = Watch(source, USUAL_BATCH)
        self.reference = reference_of(source, self.watch)
        self.default = self.fit(bundle.toml.adapter, {})

    @property
    def name(self) -> str:
        """The model's name on the wire."""
        return self.bundle.name

    @property
    def backend(self) -> str:
        """What runs the model: torch or onnx."""
        return self.bundle.toml.model.kind

    def fit(self, spec: str, options: Mapping[str, Any]) -> Fitted:
        """Return the pipeline of a spec and options, fitted to this model.

        Raises:
            UnfitError: If the spec or an option is wrong, or the model lacks what a part needs.
        """
        try:
            seed, parts = options.get("seed", 0), {name: value for name, value in options.items() if name != "seed"}
            adapter = create(spec, seed=seed, **parts)
            key = json.dumps([str(adapter.spec), options], sort_keys=True)
            if key not in self._fitted:
                fisher = _fisher(self.source, str(adapter.spec).partition("+")[0])
                self._fitted[key] = Fitted(adapter, adapter.prepare(self.source), dict(options), fisher)
        except AdapterError as error:
            raise UnfitError(str(error)) from None
        self._fitted.move_to_end(key)
        while len(self._fitted) > MAX_FITTED:
            self._fitted.popitem(last=False)
        return self._fitted[key]

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


def host(bundle: Bundle, allow_factories: Collection[str], threads: int) -> HostedModel:
    """Load a bundle's model and try it on a sample.

    Raises:
        BundleError: If the model cannot be loaded, cannot run, or answers other than bundle.toml says.
    """
    source = load_source(bundle, allow_factories, threads)
    try:
        model = HostedModel(bundle, source)
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
    """Load a bundle's source model.

    Raises:
        BundleError: If it cannot be loaded.
    """
    if bundle.toml.model.kind == "torch":
        return torch_module.load(bundle, allow_factories)
    return onnx.load(bundle, threads)
