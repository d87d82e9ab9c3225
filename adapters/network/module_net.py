"""Runs a prepared module tree in which a normalizer's functions do the work of the batch-norm layers."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adapters.base import Normalizer, NormLayer
from adapters.errors import UnfitModelError
from adapters.functional.gradients import by_autograd, by_transform
from adapters.functional.moments import channel_moments, source_normalize
from adapters.learning.checkpointing import Recomputed, Resume
from adapters.learning.gradient_step import imitate
from adapters.monitors.norm_distance import distance
from adapters.network.memory_layout import memory_format, protect
from adapters.network.norm_by_stream import normalized_by_stream
from adapters.network.norm_slots import NONE, NormSlot, slots_of
from adapters.network.trial_pass import try_out
from adapters.output_kind import as_logits
from adapters.precision import FLOAT32, computing
from adapters.source import AFFINE_NORMS, SourceModel
from adapters.state import mapped
from adapters.values import (
    Differentiable,
    Forward,
    Imitated,
    Moments,
    Normalized,
    NormState,
    Params,
    PartState,
    Tensors,
)

Mode = Literal["observe", "forward", "held"]
FIRST_LAYERS = 2
"""Number of norm layers whose drift is measured if the normalizer does not compute batch moments itself."""


@dataclass
class Pass:
    """The record of one pass over the network: statistics read and written, batch moments and features.

    `images` is the number of images per stream in a pass over several streams; 0 in a pass over one.
    """

    mode: Mode
    read: NormState
    images: int = 0
    written: dict[str, PartState] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)


Observer: TypeAlias = Callable[[Params, NormState, Tensor], tuple[Forward, NormState]]
"""Replaces `ModuleNet.observe` for a batch."""
Reader: TypeAlias = Callable[[Params, NormState, Tensor], Forward]
"""Replaces `ModuleNet.forward` for a batch."""
Imitator: TypeAlias = Callable[[Params, NormState, Tensor, Tensor], Imitated]
"""Replaces `ModuleNet.imitate` for a batch."""


@dataclass
class Underway:
    """The pass that is running, if any; all views of a network share it."""

    current: Pass | None = None


class ModuleNet:
    """Runs one prepared module tree in which a normalizer's functions do the work of the batch-norm layers.

    `layers` are the slots of these layers by name, `initial_norm` their initial statistics. It holds no learned state.
    Two threads must not call it at the same time, because a pass writes to a record that all views share.

    It takes plain tensors, so that a learner may branch on data; `pure` is the variant for `torch.func` and export.
    """

    def __init__(
        self,
        source: SourceModel,
        network: nn.Module,
        normalizer: Normalizer[Any],
        seed: int,
        added: Mapping[str, nn.Module] = MappingProxyType({}),
        added_normalizer: Normalizer[Any] | None = None,
        precision: str = FLOAT32,
        references: Mapping[nn.Module, Moments] = NONE,
    ) -> None:
        self.source = source
        self.classes = source.classes
        self.input_shape = source.input_shape
        self.value_range = source.value_range
        self.artefacts = source.artefacts
        self.added = added
        self._network = network
        self._normalizer = normalizer
        self._added_normalizer = added_normalizer or normalizer
        self.dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
        self._mean = torch.tensor(source.mean, dtype=self.dtype).reshape(-1, *[1] * (len(source.input_shape) - 1))
        self._std = torch.tensor(source.std, dtype=self.dtype).reshape(-1, *[1] * (len(source.input_shape) - 1))
        self.layers = slots_of(network, tuple(added.values()), references)
        if not source.opaque:
            try_out(network, self.layers, source, self.dtype)
        self._check_reach()
        self._measured = frozenset(list(self.layers)[:FIRST_LAYERS])
        self._differentiate = by_autograd
        self._on_host = True
        self._underway = Underway()
        self._observer: Observer | None = None
        self._reader: Reader | None = None
        self._imitator: Imitator | None = None
        self._images_each = 0
        self._precision = precision
        for module in network.modules():
            if isinstance(module, Recomputed):
                module.entering = self._entering
        for layer in self.layers.values():
            layer.normalize = self._normalize
        self.initial_norm = self._init_norm(torch.Generator().manual_seed(seed))
        network.get_submodule(source.features_module).register_forward_pre_hook(self._tap_features, with_kwargs=True)
        protect(network)
        self._memory_format = memory_format(network, source, self.dtype)

    @property
    def pure(self) -> "ModuleNet":
        """The same network without branches on data, for `torch.func` transforms and export."""
        view = self.run_by()
        view._differentiate, view._on_host, view._memory_format = by_transform, False, torch.preserve_format
        return view

    def of_streams(self, images: int) -> "ModuleNet":
        """Return the same network for batches that hold several streams in sequence, with `images` images each.

        Statistics, learned parameters of batch-norm layers and the drift are then stacked (S, ...).
        """
        view = self.run_by()
        view._images_each = images
        return view

    def run_by(
        self, observer: Observer | None = None, reader: Reader | None = None, imitator: Imitator | None = None
    ) -> "ModuleNet":
        """Return the same network with other functions for passes without gradient and for `imitate`."""
        view = copy.copy(self)
        view._observer, view._reader, view._imitator = observer, reader, imitator
        return view

    @property
    def separable(self) -> bool:
        """True if a step may select images by the batch's logits and run them again by themselves (`again`)."""
        return self._on_host and self._normalizer.independent

    @property
    def network(self) -> nn.Module:
        """The prepared module tree."""
        return self._network

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of inputs that makes steps fastest."""
        return self._memory_format

    @property
    def learns_by_stream(self) -> bool:
        """True if each stream can have its own parameters of all norm layers in one pass (`of_streams`)."""
        plain = {name for name, layer in self.layers.items() if not (layer.own_code or layer.bypassed)}
        return all(name.rpartition(".")[0] in plain for name in self.affine)

    @property
    def weights(self) -> dict[str, Tensor]:
        """All parameters of the network by name; learners of all parameters start from them."""
        return {name: parameter.detach() for name, parameter in self._network.named_parameters()}

    @property
    def affine(self) -> dict[str, Tensor]:
        """Weight and bias of all norm layers (batch, layer, group) by name; norm-only learners start from them."""
        return {
            f"{name}.{kind}": parameter.detach()
            for name, module in self._network.named_modules()
            if isinstance(module, AFFINE_NORMS)
            for kind, parameter in module.named_parameters(recurse=False)
            if kind in ("weight", "bias")
        }

    def observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        """Run x (N, ...) as the stream's next batch; return the forward pass and the new statistics."""
        if self._observer is not None and not _differentiable(params):
            return self._observer(params, norm, x)
        if not self._normalizer.rereads:
            forward, written = self._run("observe", params, norm, x)
            return forward, {**norm, **written}
        with torch.no_grad():
            first, written = self._run("observe", {k: v.detach() for k, v in params.items()}, norm, x)
        fresh = {**norm, **written}
        second, _ = self._run("forward", params, fresh, x)
        return Forward(second.logits, second.features, first.drift), fresh

    def forward(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        """Run an augmented, replayed or probe batch x (N, ...): statistics are read, never written."""
        if self._reader is not None and not _differentiable(params):
            return self._reader(params, norm, x)
        return self._run("forward", params, norm, x)[0]

    def held(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        """Run x (N, ...) under the remembered statistics, so that an answer does not depend on batch mates."""
        return self._run("held", params, norm, x)[0]

    def again(self, params: Params, before: NormState, after: NormState, x: Tensor) -> Forward:
        """Run a part x (n, ...) of an observed batch again; its images get the logits that they got in the batch.

        Observing the batch moved the statistics from `before` to `after`.
        """
        return self.forward(params, after if self._normalizer.rereads else before, x)

    def imitate(self, params: Params, norm: NormState, x: Tensor, target: Tensor) -> Imitated:
        """Observe x (N, ...) and differentiate its cross-entropy with target probabilities (N, C) at params."""
        return (self._imitator or partial(imitate, self))(params, norm, x, target)

    def gradient(self, of_params: Differentiable, params: Params) -> tuple[Params, tuple[Tensors, ...]]:
        """Differentiate a loss at params; return gradients by name and the loss function's other outputs, detached."""
        return self._differentiate(of_params, params)

    def distance(self, moments: Mapping[str, Moments]) -> Tensor:
        """Return the distance () of layers' moments (C,) from the source's; (N,) for moments (N, C) of each image."""
        layers = [self.layers[name] for name in moments]
        source = Moments(torch.cat([layer.mean for layer in layers]), torch.cat([layer.var for layer in layers]))
        means, variances = [each.mean for each in moments.values()], [each.var for each in moments.values()]
        return distance(Moments(torch.cat(means, -1), torch.cat(variances, -1)), source)

    def _init_norm(self, generator: torch.Generator) -> NormState:
        reached = [layer for layer in self.layers.values() if not layer.bypassed]
        handled = (layer for layer in reached if self._normalizer_of(layer).handles(layer))
        return {layer.name: self._normalizer_of(layer).init(layer, generator) for layer in handled}

    def _check_reach(self) -> None:
        """Refuse a normalizer that replaces statistics if the network's own code uses them."""
        bypassed = next((layer for layer in self.layers.values() if layer.bypassed), None)
        if bypassed is not None and self._normalizer.needs.batch_norm:
            raise UnfitModelError(
                f"{self._normalizer.name} replaces the statistics of batch-norm layers, but the network uses those of "
                f"{bypassed.name} ({bypassed.kind}) in code other than PyTorch's batch norm; `source` works"
            )

    def _normalizer_of(self, layer: NormSlot) -> Normalizer[Any]:
        return self._added_normalizer if layer.added else self._normalizer

    def _run(self, mode: Mode, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, dict[str, PartState]]:
        inputs = self._standardize(self._laid_out(x, params))
        self._underway.current = current = Pass(mode, norm, self._images_each)
        try:
            with computing(self._precision):
                outputs = functional_call(self._network, dict(params), (inputs,)).to(self.dtype)
        finally:
            self._underway.current = None
        logits = as_logits(self.source.output, outputs)
        features = current.features[-1] if current.features else logits
        return Forward(logits, features, self._drift(current, features)), current.written

    def _entering(self) -> Resume:
        """Return a context manager that restores the running pass, with a fresh record, to run a part of it again."""
        entered = self._underway.current

        @contextmanager
        def resume() -> Iterator[None]:
            fresh = entered and Pass(entered.mode, entered.read, entered.images)
            outer, self._underway.current = self._underway.current, fresh
            try:
                with computing(self._precision):
                    yield
            finally:
                self._underway.current = outer

        return resume

    def _laid_out(self, x: Tensor, params: Params) -> Tensor:
        """Return x in the fastest memory format, or contiguous if a convolution learns.

        Contiguous inputs give the rounding of public code, whose differences Adam would amplify.
        """
        if not self._on_host:
            return x
        convolution_learns = any(p.dim() == x.dim() and p.requires_grad for p in params.values())
        return x.contiguous(memory_format=torch.contiguous_format if convolution_learns else self._memory_format)

    def _standardize(self, x: Tensor) -> Tensor:
        whole = x.to(self.dtype)
        return (whole - self._mean) / self._std if self.source.mean else whole

    def _normalize(self, layer: NormLayer, x: Tensor) -> Tensor:
        """Normalise x (N, C, ...) in the dtype of the statistics; the result has the dtype of x."""
        current = self._underway.current
        if current is None:
            return source_normalize(layer, x)
        whole = x.to(layer.mean.dtype)
        normalized = self._normalized(current, layer, whole)
        if not self.layers[layer.name].added:  # the learner's own layers have no source statistics to compare with
            self._see(current, layer, whole, normalized.moments)
        return normalized.y.to(x.dtype)

    def _see(self, current: Pass, layer: NormLayer, x: Tensor, moments: Moments | None) -> None:
        if moments is not None:
            current.moments[layer.name] = moments
        elif current.mode != "forward" and layer.name in self._measured:
            current.moments[layer.name] = _moments(current, x.detach())

    def _normalized(self, current: Pass, layer: NormLayer, x: Tensor) -> Normalized:
        state = current.read.get(layer.name)
        if current.images:
            run = partial(self._normalized_alone, current.mode)
            normalized, after = normalized_by_stream(run, layer, state, x, current.images)
        else:
            normalized, after = self._normalized_alone(current.mode, layer, state, x)
        if after is not None:
            current.written[layer.name] = after
        return normalized

    def _normalized_alone(
        self, mode: Mode, layer: NormLayer, state: PartState | None, x: Tensor
    ) -> tuple[Normalized, PartState | None]:
        if state is None:
            return Normalized(source_normalize(layer, x), None), None
        normalizer = self._normalizer_of(self.layers[layer.name])
        if mode == "observe":
            return normalizer.observe(layer, state, x)
        run = normalizer.forward if mode == "forward" else normalizer.held
        return run(layer, state, x), None

    def _tap_features(self, _module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        if self._underway.current is not None:
            features = (*inputs, *named.values())[0]
            self._underway.current.features.append(features.flatten(1).to(self.dtype))

    def _drift(self, current: Pass, features: Tensor) -> Tensor | None:
        if current.moments:
            return self.distance(_alike(current.moments))
        artefacts = self.source.artefacts
        if "features.mean" not in artefacts:
            return None
        usual = Moments(artefacts["features.mean"], artefacts["features.var"])
        return distance(_moments(current, features.detach()), usual)


def _differentiable(params: Params) -> bool:
    return any(p.requires_grad for p in params.values())


def _alike(moments: Mapping[str, Moments]) -> Mapping[str, Moments]:
    """Return the moments (N, C) of single images if some layers have them, else all, so that shapes match."""
    most = max(each.mean.dim() for each in moments.values())
    return {name: each for name, each in moments.items() if each.mean.dim() == most}


def _moments(current: Pass, x: Tensor) -> Moments:
    """Return the moments (C,) of x (N, C, ...), or those of each stream's images, stacked (S, C)."""
    if not current.images:
        return channel_moments(x)
    return mapped(channel_moments, x.reshape(-1, current.images, *x.shape[1:]))
