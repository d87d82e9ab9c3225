"""The frozen model as an observer: it measures requests' distance from the source statistics and its own entropy."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Normalizer, NormLayer
from adapters.functional.entropy import entropy_of_probabilities
from adapters.functional.moments import instance_moments, pooled, source_normalize
from adapters.monitors import moving_moments
from adapters.monitors.layer_distance import LayerDistance, between
from adapters.monitors.moving_moments import MomentsState
from adapters.network.module_net import ModuleNet
from adapters.network.reference_statistics import references
from adapters.options import Options, option
from adapters.source import SourceModel
from adapters.values import Moments, Normalized

UNKNOWN = -1.0
"""Stands for an unknown distance."""


@dataclass(frozen=True)
class Look:
    """The frozen model's observation of a request.

    Attributes:
        distance: () norm-statistics distance of the newest images together from the source; negative if unknown.
        alone: (N,) the same for each image alone, for (N, C, H, W) layers; empty if unknown.
        entropy: () mean entropy of the frozen model's answers, nats.
        logits: (N, C) of its answers.
        features: (N, d) that enter its classifier.
    """

    distance: Tensor
    alone: Tensor
    entropy: Tensor
    logits: Tensor
    features: Tensor


Seen = Mapping[str, MomentsState]
"""An observer's state: the moving moments of each norm layer's inputs."""


class Watch:
    """Observes requests with the frozen model, so that learning does not change its observations.

    Args:
        source: The model.
        memory: Time constant of the moving moments, in images.
    """

    def __init__(self, source: SourceModel, memory: int) -> None:
        measuring = _Measuring(_MeasuringOptions(memory=memory))
        network = source.shared_copy()
        self._net = ModuleNet(source, network, measuring, seed=0, references=references(source, network))

    @property
    def initial(self) -> Seen:
        """The state before any request."""
        return {name: moments for name, moments in self._net.initial_norm.items() if isinstance(moments, MomentsState)}

    @torch.no_grad()
    def look(self, seen: Seen, x: Tensor) -> tuple[Look, Seen]:
        """Observe x (N, *input_shape); return the observation and the new state."""
        forward, after = self._net.observe({}, seen, x)
        entropy = entropy_of_probabilities(forward.logits.softmax(1)).mean()
        moving = {name: moments for name, moments in after.items() if isinstance(moments, MomentsState)}
        if not moving:
            distance = torch.tensor(UNKNOWN) if forward.drift is None else forward.drift
            return Look(distance, torch.empty(0), entropy, forward.logits, forward.features), moving
        distance = self._net.distance({name: layer.moments for name, layer in moving.items()})
        alone = torch.empty(0) if forward.drift is None else forward.drift
        return Look(distance, alone, entropy, forward.logits, forward.features), moving

    def layers(self, seen: Seen) -> dict[str, LayerDistance]:
        """Return the distance of each layer's moving moments from the source's, for layers over maps (N, C, H, W)."""
        return {name: between(moving.moments, self._source(name)) for name, moving in seen.items()}

    def _source(self, name: str) -> Moments:
        layer = self._net.layers[name]
        return Moments(layer.mean, layer.var)


@dataclass(frozen=True, kw_only=True)
class _MeasuringOptions(Options):
    memory: int = option(64, "time constant of the moving moments, in images", low=1)


class _Measuring(Normalizer[MomentsState]):
    """Normalises by the source statistics; measures each image's moments and their moving average over the stream."""

    name = "source"
    paper = "ours"
    remembers = "moments"
    options_class = _MeasuringOptions
    options: _MeasuringOptions
    spatial_only = True

    def init(self, layer: NormLayer, generator: torch.Generator) -> MomentsState:
        return moving_moments.init(Moments(layer.mean, layer.var))

    def observe(self, layer: NormLayer, state: MomentsState, x: Tensor) -> tuple[Normalized, MomentsState]:
        each = instance_moments(x)
        moved = moving_moments.update(state, pooled(each), len(x), self.options.memory)
        return Normalized(source_normalize(layer, x), each), moved

    def forward(self, layer: NormLayer, state: MomentsState, x: Tensor) -> Normalized:
        return Normalized(source_normalize(layer, x), None)
