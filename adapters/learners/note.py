"""NOTE: entropy learning on a reservoir of images that is balanced over predicted classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.base import Learned, Learner, Needs, Net
from adapters.functional import reservoir
from adapters.functional.chance import generator_of, step_seed
from adapters.functional.entropy import entropy_above_floor
from adapters.functional.optim import OptimOptions
from adapters.functional.places import recall, spans
from adapters.functional.reservoir import Reservoir
from adapters.learning.gradient_step import Learning, descend, observe_gradient, start
from adapters.options import option
from adapters.source import as_stored
from adapters.values import CopyStates, Forward, Noise, PartState, Run


@dataclass(frozen=True)
class NOTEState(PartState):
    """Learned parameters with the optimizer's moments, and the reservoir."""

    learning: Learning
    memory: Reservoir


@dataclass(frozen=True, kw_only=True)
class NOTEOptions(OptimOptions):
    """Options of the optimizer and the reservoir."""

    lr: float = option(1e-4, "learning rate", low=0.0, high=10.0)
    capacity: int = option(64, "capacity of the reservoir, in images", low=1, high=1024)
    period: int = option(64, "images between two updates", low=1, high=1024)


class NOTE(Learner[NOTEState]):
    """Descend the mean entropy of a class-balanced reservoir once per period; answer before the update.

    Made for streams whose neighbours share their label. Statistics follow the reservoir only, in the pass that computes
    the gradient. The loss is a mean over images and classes; this scale matters for SGD, and hardly for Adam. Images
    keep the class that was predicted on arrival. Dropout is off in updates, unlike in public code.

    Remembers: weight and bias of the norm layers, optimizer moments, images, and a count of predictions per class.
    Needs: norm layers with weight and bias.
    Reference: Gong et al., NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation, NeurIPS 2022
        (algorithm 1).

    Example:
        >>> from adapters import create
        >>> str(create("note").spec), create("note").pure_graph
        ('note_iabn+note', False)
    """

    name = "note"
    paper = "Gong et al.: NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation, NeurIPS 2022"
    remembers = "weight and bias of the norm layers, with optimizer moments; 64 images; class counts"
    needs = Needs(affine=True, gradient=True)
    normalizer = "note_iabn"
    pure_graph = False
    holds_inputs = True
    options_class = NOTEOptions
    options: NOTEOptions

    def init(self, net: Net, generator: torch.Generator) -> NOTEState:
        """Return the source's weight and bias, zero moments and an empty reservoir."""
        memory = reservoir.empty(self.options.capacity, net.input_shape, net.classes)
        return NOTEState(start(net.affine, self.options), memory)

    def without_inputs(self, state: NOTEState) -> NOTEState:
        """Return the state with an empty reservoir."""
        return replace(state, memory=reservoir.emptied(state.memory))

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw the random numbers that decide which images the reservoir keeps and which it replaces."""
        own = generator_of(step_seed(seed, steps))
        return {"reservoir": torch.rand(shape[0], reservoir.DRAWS, generator=own, dtype=torch.float64)}

    def step(self, net: Net, state: NOTEState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[NOTEState]:
        """Answer x (N, ...), offer its images to the reservoir, and learn at the end of each period."""
        forward = self.answer(net.held, state, norm, x)
        finite = forward.logits.isfinite().all(1)  # the reservoir stores images by predicted class
        images, labels = as_stored(x[finite], net.value_range), forward.logits[finite].argmax(1)
        draws = noise["reservoir"][finite]
        signals: dict[str, Tensor] = {}
        for rows, due in spans(int(state.memory.places.arrived), len(images), self.options.period):
            memory = reservoir.insert(state.memory, images[rows], labels[rows], draws[rows])
            state = replace(state, memory=memory)
            if due:
                state, norm, signals["loss"] = self._update(net, state, norm)
        return Learned(forward, state, norm, {**signals, "memory_ratio": state.memory.places.filled})

    def answer(self, run: Run, state: NOTEState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned parameters."""
        return run(state.learning.params, norm["student"], x)

    def _update(self, net: Net, state: NOTEState, norm: CopyStates) -> tuple[NOTEState, CopyStates, Tensor]:
        """Descend the entropy of the reservoir and observe it, in one pass; return the loss () too."""
        x = recall(state.memory.places, net.value_range).to(net.dtype)

        def entropy(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
            loss = entropy_above_floor(forward.logits).mean() / net.classes
            return loss, {"loss": loss}

        params = state.learning.params
        grads, other, _, observed = observe_gradient(net, params, norm["student"], x, entropy)
        learning = descend(state.learning, grads, self.options)
        return replace(state, learning=learning), {"student": observed}, other["loss"]
