"""ETA: entropy minimisation on reliable, non-redundant images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.base import JointLearner, Learned, Needs, Net, StreamsNet
from adapters.learning import filtered_entropy
from adapters.learning.filtered_entropy import FilteredState, FilterOptions
from adapters.values import CopyStates, Forward, Noise, Run


class ETA(JointLearner[FilteredState]):
    """Descend the entropy of images that are reliable (low entropy) and new (unlike the mean output), weighted.

    More stable than TENT at the same cost. On a stream sorted by class the mean output becomes one class, so that every
    image counts as redundant and learning stops: watch `selected_ratio`. Answers with the logits from before the step.

    Remembers: weight and bias of the norm layers, optimizer moments, the mean output (C).
    Needs: norm layers with weight and bias.
    Reference: Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022 (eqs. 2-5; EATA without
        the Fisher term). d_margin defaults to 1.3 / sqrt(classes), which agrees with the paper's values.

    Example:
        >>> from adapters import create
        >>> str(create("unmix_tns+eta").spec)
        'unmix_tns+eta'
    """

    name = "eta"
    paper = "Niu et al.: Efficient Test-Time Model Adaptation without Forgetting, ICML 2022"
    remembers = "weight and bias of the norm layers, with optimizer moments; the mean output"
    needs = Needs(affine=True, gradient=True)
    answers_first = True
    options_class = FilterOptions
    options: FilterOptions

    def init(self, net: Net, generator: torch.Generator) -> FilteredState:
        """Return the source's weight and bias, zero moments and no mean output yet."""
        return filtered_entropy.init(net, self.options)

    def step(
        self,
        net: Net,
        state: FilteredState,
        norm: CopyStates,
        x: Tensor,
        noise: Noise,
    ) -> Learned[FilteredState]:
        """Learn from the selected images of x (N, ...)."""
        return filtered_entropy.step(net, state, norm, x, self.options, pull={})

    def step_together(
        self, net: StreamsNet, states: Sequence[FilteredState], norms: Sequence[CopyStates], x: Tensor
    ) -> list[Learned[FilteredState]]:
        """Learn from the selected images of S streams' batches x (S, N, ...)."""
        return filtered_entropy.step_together(net, states, norms, x, self.options)

    def answer(self, run: Run, state: FilteredState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned parameters."""
        return run(state.learning.params, norm["student"], x)
