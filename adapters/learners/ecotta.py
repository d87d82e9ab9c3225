"""EcoTTA: small trainable networks around the parts of a frozen network, regularised towards each part's output."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from adapters.base import Learned, Learner, Needs, Net
from adapters.errors import UnfitModelError
from adapters.functional.augment import mild_view
from adapters.functional.entropy import entropy_of_logits
from adapters.functional.optim import OptimOptions
from adapters.learning.gradient_step import Learning, descend, descend_where, start
from adapters.learning.meta_networks import MetaPart, attach, distilling
from adapters.options import option
from adapters.source import SourceImages, SourceModel
from adapters.values import CopyStates, Forward, Noise, NormState, Params, Run

WARM_UP_LR = 0.05
WARM_UP_DROPS = (0.3, 0.6, 0.8)
"""Shares of the warm-up after which the learning rate drops to a fifth (the paper: after epochs 3, 6 and 8 of 10)."""


@dataclass(frozen=True, kw_only=True)
class EcoTTAOptions(OptimOptions):
    """Options of the optimizer, the parts, the filter and the warm-up."""

    optimizer: Literal["adam", "sgd"] = option("sgd", "Adam, or SGD with momentum")
    lr: float = option(5e-3, "learning rate", low=0.0, high=10.0)
    parts: str = option(
        "",
        "modules of the parts in order, such as `layer1,layer2.0+layer2.1`; if empty, found in ResNet-like models",
    )
    split: int = option(0, "number of parts to divide the found stages into; 0: one per stage", low=0, high=64)
    regularisation: float = option(0.5, "weight of the distance to the frozen parts' outputs", low=0.0, high=100.0)
    e_margin: float = option(0.4, "reliable: entropy below this share of ln(classes)", low=0.0, high=1.0)
    warm_up_epochs: int = option(10, "passes over the source images when calibrating", low=1, high=1000)


class EcoTTA(Learner[Learning]):
    """Train small meta networks around the parts of a frozen encoder; the model's own weights never change.

    Each part's output goes through a norm layer, and a convolution of the part's input is added. A batch takes two
    passes and two steps. The first step moves the adapted outputs towards the frozen ones, part by part (L1). The
    second descends the entropy of reliable images; it is skipped if there are none. Answers with the second pass. To
    save memory, the second gradient recomputes the activations inside each part instead of keeping them. Norm layers of
    the meta networks use batch statistics, so that the method works poorly on single images.

    Remembers: weights of the meta networks (below a tenth of the model), optimizer moments.
    Needs: parts in sequence (ResNet-like models, or named by `parts`); the source artefact `ecotta`, made from labelled
        source images.
    Reference: Song et al., EcoTTA: Memory-Efficient Continual Test-time Adaptation via Self-distilled Regularization,
        CVPR 2023 (eqs. 1-4). Takes two optimizer steps per batch, like the only public code; the paper has one loss.

    Example:
        >>> from adapters import create
        >>> str(create("ecotta").spec), create("ecotta").learner.options.lr
        ('batch+ecotta', 0.005)
    """

    name = "ecotta"
    paper = "Song et al.: EcoTTA: Memory-Efficient Continual Test-time Adaptation, CVPR 2023"
    remembers = "weights of the meta networks, with optimizer moments"
    needs = Needs(gradient=True, artefacts=("ecotta",))
    artefact = "ecotta"
    pure_graph = False
    options_class = EcoTTAOptions
    options: EcoTTAOptions

    def extend(self, network: nn.Module, source: SourceModel) -> None:
        """Wrap each part of the network with its meta network."""
        attach(network, source.input_shape, self.options.parts, self.options.split)

    def init(self, net: Net, generator: torch.Generator) -> Learning:
        """Return the warmed-up meta weights, and zero moments."""
        names = list(meta_weights(net))
        warm = {name: net.artefacts[key] for name in names if (key := f"ecotta.{name}") in net.artefacts}
        if len(warm) < len(names):
            raise UnfitModelError("the source artefact 'ecotta' was made for other parts; calibrate again")
        return start(warm, self.options)

    def step(self, net: Net, state: Learning, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[Learning]:
        """Step towards the frozen parts' outputs, then descend the entropy of the reliable images of x (N, ...)."""
        held, first, observed, distance = self._distilled(net, state, norm["student"], x)
        e_margin = self.options.e_margin * math.log(net.classes)

        def reliable(forward: Forward) -> Tensor:
            entropy = entropy_of_logits(forward.logits)
            return torch.where(entropy.detach() < e_margin, entropy, 0.0).sum()

        grads, second = _gradient(net, held.params, observed, x, reliable)
        count = (entropy_of_logits(second.logits) < e_margin).sum()
        mean = {name: g / count.clamp_min(1) for name, g in grads.items()}
        learned = descend_where(count > 0, held, mean, self.options)
        signals = {"selected_ratio": count / len(x), "part_distance": distance}
        answer = Forward(second.logits, second.features, first.drift)
        return Learned(answer, learned, {"student": observed}, signals)

    def answer(self, run: Run, state: Learning, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned meta weights."""
        return run(state.params, norm["student"], x)

    def calibrate(
        self, net: Net, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Warm up the meta weights by SGD on the cross-entropy of labelled, mildly augmented source images."""
        if not len(data.labels):
            raise UnfitModelError("ecotta warms up on labelled source images, and these have no labels")
        generator = torch.Generator().manual_seed(0)
        options = OptimOptions(optimizer="sgd", lr=WARM_UP_LR, momentum=0.9)
        state = start(meta_weights(net), options)
        epochs, per_epoch = self.options.warm_up_epochs, max(len(data.images) // batch, 1)
        for number in range(epochs):
            for index, (x, y) in enumerate(data.batches(batch, generator)):
                view = mild_view(x, generator, data.value_range)
                lr = warm_up_lr(number * per_epoch + index, per_epoch, epochs)
                loss = _cross_entropy_with(y)
                grads, _ = _gradient(net, state.params, net.initial_norm, view, loss)
                state = descend(state, grads, OptimOptions(optimizer="sgd", lr=lr, momentum=0.9))
                advance(1 / (epochs * per_epoch))
        return dict(state.params)

    def _distilled(
        self, net: Net, state: Learning, norm: NormState, x: Tensor
    ) -> tuple[Learning, Forward, NormState, Tensor]:
        """Observe x and take the step that moves each part's adapted output towards the frozen one."""
        parts = {name: module for name, module in net.added.items() if isinstance(module, MetaPart)}
        with distilling(parts) as ledger:
            first, observed = net.observe(_leaves(state.params), norm, x)
        grads = {name: self.options.regularisation * g for name, g in ledger.grads.items()}
        distance = torch.stack(list(ledger.distances.values())).mean()
        return descend(state, grads, self.options), first, observed, distance


def meta_weights(net: Net) -> Params:
    """Return the initial parameters of the meta networks, by name."""
    weights = net.weights
    prefixes = tuple(f"{name}." for name, module in net.added.items() if isinstance(module, MetaPart))
    return {
        name: weights[name]
        for name in weights
        if name.startswith(prefixes) and not any(name.startswith(f"{prefix}frozen.") for prefix in prefixes)
    }


def warm_up_lr(step: int, per_epoch: int, epochs: int) -> float:
    """Return the warm-up's learning rate: it rises linearly over the first epoch, then drops to a fifth three times.

    Example:
        >>> [round(warm_up_lr(step, 10, 10), 4) for step in (0, 9, 20, 30, 99)]
        [0.005, 0.05, 0.05, 0.01, 0.0004]
    """
    drops = sum(step >= share * epochs * per_epoch for share in WARM_UP_DROPS)
    return WARM_UP_LR * min(1.0, (step + 1) / per_epoch) * 0.2**drops


def _cross_entropy_with(labels: Tensor) -> Callable[[Forward], Tensor]:
    return lambda forward: nn.functional.cross_entropy(forward.logits, labels)


def _leaves(params: Params) -> dict[str, Tensor]:
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def _gradient(
    net: Net, params: Params, norm: NormState, x: Tensor, loss: Callable[[Forward], Tensor]
) -> tuple[Params, Forward]:
    """Differentiate a loss by plain autograd, as recomputation requires; return the gradient and the forward pass."""
    leaves = _leaves(params)
    with torch.enable_grad():
        forward = net.forward(leaves, norm, x)
        grads = torch.autograd.grad(loss(forward), list(leaves.values()))
    drift = forward.drift
    return dict(zip(leaves, grads, strict=True)), Forward(forward.logits.detach(), forward.features.detach(), drift)
