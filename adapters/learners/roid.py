"""ROID: learns from confident and diverse images and their augmented views, and moves back towards the source."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Learned, Learner, Needs, Net
from adapters.errors import UnfitModelError
from adapters.functional.augment import random_sharp_view
from adapters.functional.chance import generator_of, step_seed
from adapters.functional.losses import soft_likelihood_ratio, symmetric_cross_entropy
from adapters.functional.optim import OptimOptions
from adapters.functional.weighting import Weighting, weigh
from adapters.learning.gradient_step import Learning, Passed, descend, joint_gradient, start
from adapters.options import option
from adapters.source import SourceModel
from adapters.values import CopyStates, Forward, Noise, Params, PartState, Run

IMAGE_DIMENSIONS = 3


@dataclass(frozen=True)
class ROIDState(PartState):
    """Learned parameters, and the moving mean (C,) of outputs."""

    learning: Learning
    mean_probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class ROIDOptions(OptimOptions):
    """Options of the optimizer, the weights, the second view and the return to the source."""

    weighting: bool = option(True, "weigh images by certainty and diversity, and leave out the less diverse ones")
    consistency: bool = option(True, "also learn from an augmented view of the images that have a weight")
    augment: bool = option(True, "augment the second view; else it is the image itself")
    temperature: float = option(1 / 3, "the lower, the more the weights differ", low=0.01, high=100.0)
    source_momentum: float = option(0.99, "share of the parameters that stays at each step", low=0.0, high=1.0)
    batch_size: int | None = option(None, "divisor of the losses; default: the batch's size", low=1, high=4096)


class ROID(Learner[ROIDState]):
    """Descend the weighted soft likelihood ratio and the disagreement with an augmented view; then move back a little.

    After each step the parameters move a hundredth of the way back to the source. The second view holds only the images
    with a weight, and the gradient flows into both views. Answers with the logits from before the step; the output
    adjuster `roid_prior` is part of the method. A single image is answered but not learned from: public code returns
    NaN for it.

    Remembers: weight and bias of the norm layers, optimizer moments, the mean output (C).
    Needs: norm layers with weight and bias; batches of more than one image.
    Reference: Marsden et al., Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior
        Correction, WACV 2024.

    Example:
        >>> from adapters import create
        >>> str(create("roid").spec), create("roid").pure_graph
        ('batch+roid+roid_prior', False)
    """

    name = "roid"
    paper = (
        "Marsden et al.: Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior "
        "Correction, WACV 2024"
    )
    remembers = "weight and bias of the norm layers, with optimizer moments; the mean output"
    needs = Needs(affine=True, gradient=True)
    pure_graph = False
    output = "roid_prior"
    options_class = ROIDOptions
    options: ROIDOptions

    def check(self, source: SourceModel) -> None:
        """Refuse, in addition, inputs that are not images if views are augmented."""
        super().check(source)
        if self.options.consistency and self.options.augment and len(source.input_shape) != IMAGE_DIMENSIONS:
            raise UnfitModelError(
                f"{self.name} augments images of (channels, height, width), and this model's inputs are "
                f"{source.input_shape}; `augment=false` works"
            )

    def init(self, net: Net, generator: torch.Generator) -> ROIDState:
        """Return the source's weight and bias, zero moments and a uniform mean output."""
        uniform = torch.full((net.classes,), 1 / net.classes, dtype=net.dtype)
        return ROIDState(start(net.affine, self.options), uniform)

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw the seed of this step's augmentation."""
        return {"seed": step_seed(seed, steps)}

    def step(self, net: Net, state: ROIDState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[ROIDState]:
        """Learn from the images of x (N, ...) that have a weight, then move a little back to the source."""
        before = norm["student"]
        if len(x) < 2:
            forward, observed = net.observe(state.learning.params, before, x)
            return Learned(forward, state, {"student": observed}, {"selected_ratio": torch.zeros(())})

        def run(learned: Params) -> Passed:
            forward, observed = net.observe(learned, before, x)
            weighting = self._weigh(forward.logits, state.mean_probabilities)
            loss = (weighting.weight * soft_likelihood_ratio(forward.logits)).sum()
            if self.options.consistency:
                kept = weighting.kept
                # The second pass starts from the same statistics as the first: those before this batch.
                second = net.forward(learned, before, self._view(net, x[kept], noise)).logits
                disagreement = symmetric_cross_entropy(second, forward.logits[kept])
                loss = loss + (weighting.weight[kept] * disagreement).sum()
            other = {"kept": weighting.kept, "mean_probabilities": weighting.mean_probabilities}
            return Passed(loss / (self.options.batch_size or len(x)), forward, observed, other)

        grads, weighed, forward, observed = joint_gradient(net, state.learning.params, before, run)
        learning = self._moved_back(net, descend(state.learning, grads, self.options))
        moved = ROIDState(learning, weighed["mean_probabilities"])
        ratio = {"selected_ratio": weighed["kept"].to(x.dtype).mean()}
        return Learned(forward, moved, {"student": observed}, ratio)

    def answer(self, run: Run, state: ROIDState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned parameters."""
        return run(state.learning.params, norm["student"], x)

    def _weigh(self, logits: Tensor, mean_probabilities: Tensor) -> Weighting:
        weighting = weigh(logits, mean_probabilities, self.options.temperature)
        if self.options.weighting:
            return weighting
        weight = torch.ones_like(weighting.weight)
        return Weighting(weight, weight.bool(), weighting.mean_probabilities)

    def _view(self, net: Net, x: Tensor, noise: Noise) -> Tensor:
        if not self.options.augment:
            return x
        return random_sharp_view(x, generator_of(noise["seed"]), net.value_range)

    def _moved_back(self, net: Net, learning: Learning) -> Learning:
        stay, source = self.options.source_momentum, net.affine
        params = {name: stay * p + (1 - stay) * source[name] for name, p in learning.params.items()}
        return Learning(params, learning.optimizer)
