"""The frozen model as an observer: how far requests are from the source's statistics, and how sure it is of them."""

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
from adapters.options import Options, option
from adapters.source import SourceModel
from adapters.values import Moments, Normalized

UNTOLD = -1.0
"""In the place of a distance that cannot be told."""


@dataclass(frozen=True)
class Look:
    """What the frozen model finds in a request.

    Attributes:
        distance: () norm-statistics distance of the newest images together from the source; negative: untold.
        alone: (N,) the same of each image alone, for (N, C, H, W) layers; empty: untold.
        entropy: () mean entropy of its answers, nats.
        logits: (N, C) its answers.
        features: (N, d) that enter its classifier.
    """

    distance: Tensor
    alone: Tensor
    entropy: Tensor
    logits: Tensor
    features: Tensor


Seen = Mapping[str, MomentsState]
"""What an observer remembers: the moving moments of each norm layer's inputs."""


class Watch:
    """Looks at requests through the frozen model; what it finds does not depend on what has been learned.

    Args:
        source: The model.
        memory: Images that the remembered moments fade over.
    """

    def __init__(self, source: SourceModel, memory: int) -> None:
        measuring = _Measuring(_MeasuringOptions(memory=memory))
        self._net = ModuleNet(source, source.shared_copy(), measuring, seed=0)

    @property
    def initial(self) -> Seen:
        """What is remembered before any request."""
        return {name: moments for name, moments in self._net.initial_norm.items() if isinstance(moments, MomentsState)}

    @torch.no_grad()
    def look(self, seen: Seen, x: Tensor) -> tuple[Look, Seen]:
        """Look at x (N, *input_shape); return what was found, and what is remembered now."""
        forward, after = self._net.observe({}, seen, x)
        entropy = entropy_of_probabilities(forward.logits.softmax(1)).mean()
        remembered = {name: moments for name, moments in after.items() if isinstance(moments, MomentsState)}
        if not remembered:
            distance = torch.tensor(UNTOLD) if forward.drift is None else forward.drift
            return Look(distance, torch.empty(0), entropy, forward.logits, forward.features), remembered
        distance = self._net.distance({name: layer.moments for name, layer in remembered.items()})
        alone = torch.empty(0) if forward.drift is None else forward.drift
        return Look(distance, alone, entropy, forward.logits, forward.features), remembered

    def layers(self, seen: Seen) -> dict[str, LayerDistance]:
        """Return how far each layer's remembered moments are from the source's; of layers over maps alone."""
        return {name: between(remembered.moments, self._source(name)) for name, remembered in seen.items()}

    def _source(self, name: str) -> Moments:
        layer = self._net.layers[name]
        return Moments(layer.mean, layer.var)


@dataclass(frozen=True, kw_only=True)
class _MeasuringOptions(Options):
    memory: int = option(64, "images that the remembered moments fade over", low=1)


class _Measuring(Normalizer[MomentsState]):
    """Source statistics; measures each image's moments, and remembers those of the newest images together."""

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
