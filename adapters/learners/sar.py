"""SAR: sharpness-aware entropy minimisation on reliable images, with recovery."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapters.base import Learned, Learner, Needs, Net
from adapters.errors import UnfitModelError
from adapters.functional.entropy import entropy_of_logits
from adapters.functional.optim import OptimOptions
from adapters.learning.gradient_step import Learning, descend_where, forward_gradient, observe_gradient, start
from adapters.options import option
from adapters.state import where
from adapters.values import CopyStates, Forward, Noise, Params, PartState, Run

LAST_STAGE = re.compile(r"layer4|blocks\.(9|10|11)\b|(^|\.)norm\.")
"""Norm layers that do not learn: the last stage of a ResNet, the last blocks and norm of a 12-block ViT."""


@dataclass(frozen=True)
class SARState(PartState):
    """Learned parameters; () moving mean of the second loss; () whether the mean has a value yet."""

    learning: Learning
    mean_loss: Tensor
    seen: Tensor


@dataclass(frozen=True, kw_only=True)
class SAROptions(OptimOptions):
    """Options of the optimizer, the neighbourhood, the filter and the recovery."""

    optimizer: Literal["adam", "sgd"] = option("sgd", "Adam, or SGD with momentum")
    rho: float = option(0.05, "radius of the neighbourhood in which the worst point is sought", low=0.0, high=10.0)
    e_margin: float = option(0.4, "reliable: entropy below this share of ln(classes)", low=0.0, high=1.0)
    recovery: float | None = option(
        None, "reset if the mean loss falls below; default 0.2, less for fewer than 10 classes", low=0.0, high=10.0
    )
    keep_momentum: bool = option(False, "keep the optimizer's momentum through a recovery, as public code does")


class SAR(Learner[SARState]):
    """Descend the entropy of reliable images at the worst point of a small neighbourhood; reset on collapse.

    Takes two passes and two gradients. If the moving mean of the second loss falls below the threshold, the model has
    collapsed, and its parameters return to the source. Without reliable images nothing moves. Answers with the first
    pass.

    Remembers: weight and bias of the norm layers except the last stage's, optimizer moments, the mean loss.
    Needs: norm layers with weight and bias; made for group and layer norm (`source+sar`).
    Reference: Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023 (eqs. 2-5).

    Example:
        >>> from adapters import create
        >>> str(create("sar").spec), create("sar").learner.options.optimizer
        ('batch+sar', 'sgd')
    """

    name = "sar"
    paper = "Niu et al.: Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023"
    remembers = "weight and bias of the norm layers except the last stage's, with optimizer moments; the mean loss"
    needs = Needs(affine=True, gradient=True)
    options_class = SAROptions
    options: SAROptions

    def init(self, net: Net, generator: torch.Generator) -> SARState:
        """Return the source's weight and bias, zero moments and no mean loss yet."""
        learned = {name: p for name, p in net.affine.items() if not LAST_STAGE.search(name)}
        if not learned:
            raise UnfitModelError("sar does not train the last stage's norm layers, and this model has no others")
        zero = torch.zeros((), dtype=net.dtype)
        return SARState(start(learned, self.options), zero, torch.zeros((), dtype=torch.bool))

    def step(self, net: Net, state: SARState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[SARState]:
        """Climb to the worst point near the parameters, descend with its gradient, reset on collapse."""
        e_margin = self.options.e_margin * math.log(net.classes)
        everything = torch.ones(len(x), dtype=torch.bool)

        def first_loss(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
            return reliable_entropy(forward.logits, everything, e_margin)

        params = state.learning.params
        grads, first, forward, observed = observe_gradient(net, params, norm["student"], x, first_loss)

        def second_loss(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
            return reliable_entropy(forward.logits, first["mask"], e_margin)

        # The second pass starts from the same statistics as the first: those before this batch.
        worst = climb(params, grads, self.options.rho)
        grads, second = forward_gradient(net, worst, norm["student"], x, second_loss)
        learning = descend_where(second["mask"].any(), state.learning, grads, self.options)
        moved = self._recovered(net, self._with_loss(state, learning, second))
        ratio = {"selected_ratio": first["mask"].to(x.dtype).mean()}
        return Learned(forward, moved, {"student": observed}, ratio)

    def answer(self, run: Run, state: SARState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned parameters."""
        return run(state.learning.params, norm["student"], x)

    def _with_loss(self, state: SARState, learning: Learning, second: Mapping[str, Tensor]) -> SARState:
        any_reliable = second["mask"].any()
        mean = torch.where(state.seen, 0.9 * state.mean_loss + 0.1 * second["loss"], second["loss"])
        return SARState(learning, torch.where(any_reliable, mean, state.mean_loss), state.seen | any_reliable)

    def _recovered(self, net: Net, state: SARState) -> SARState:
        threshold = self.options.recovery
        if threshold is None:
            threshold = 0.2 * min(1.0, math.log(net.classes) / math.log(10))
        fresh = self.init(net, torch.Generator())
        if self.options.keep_momentum:
            fresh = SARState(Learning(fresh.learning.params, state.learning.optimizer), fresh.mean_loss, fresh.seen)
        return where(state.seen & (state.mean_loss < threshold), fresh, state)


def reliable_entropy(logits: Tensor, among: Tensor, e_margin: float) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the mean entropy () of the reliable images in the mask `among` (N,), 0 if there are none, and their mask.

    Example:
        >>> loss, other = reliable_entropy(torch.zeros(1, 2), torch.ones(1, dtype=torch.bool), 0.1)
        >>> loss, other["mask"]
        (tensor(0.), tensor([False]))
    """
    entropy = entropy_of_logits(logits)
    mask = among & (entropy.detach() < e_margin)
    loss = torch.where(mask, entropy, 0.0).sum() / mask.sum().clamp_min(1)
    return loss, {"mask": mask, "loss": loss}


def climb(params: Params, grads: Params, rho: float) -> dict[str, Tensor]:
    """Return params + rho g / |g|, one norm over all gradients (SAM's ascent).

    Example:
        >>> climb({"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}, 5.0)
        {'w': tensor([3., 4.])}
    """
    norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
    return {name: p + rho * grads[name] / (norm + 1e-12) for name, p in params.items()}
