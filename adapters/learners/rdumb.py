"""RDumb: ETA that returns to the source model at fixed intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import JointLearner, Learned, Needs, Net, StreamsNet
from adapters.learning import filtered_entropy
from adapters.learning.filtered_entropy import FilterOptions, ReturningState
from adapters.options import option
from adapters.values import CopyStates, Forward, Noise, Run


@dataclass(frozen=True, kw_only=True)
class RDumbOptions(FilterOptions):
    """Options of ETA, and the reset interval."""

    reset_every: int = option(1000, "steps between resets to the source", low=1, high=10**9)


class RDumb(JointLearner[ReturningState]):
    """Learn as ETA, and reset parameters, moments, mean output and statistics every `reset_every` steps.

    A baseline that beat most continual methods on long streams. The count starts at 0, so that the first reset comes
    before the first batch and changes nothing. Answers with the logits from before the step.

    Remembers: the state of ETA, and a count.
    Needs: norm layers with weight and bias.
    Reference: Press et al., RDumb: A simple approach that questions our progress in continual test-time adaptation,
        NeurIPS 2023.

    Example:
        >>> from adapters import create
        >>> create("rdumb", rdumb={"reset_every": 3}).learner.options.reset_every
        3
    """

    name = "rdumb"
    paper = "Press et al.: RDumb: A simple approach that questions our progress in continual TTA, NeurIPS 2023"
    remembers = "weight and bias of the norm layers, with optimizer moments; the mean output; a count"
    needs = Needs(affine=True, gradient=True)
    answers_first = True
    options_class = RDumbOptions
    options: RDumbOptions

    def init(self, net: Net, generator: torch.Generator) -> ReturningState:
        """Return ETA's initial state, and a count of 0."""
        return filtered_entropy.init_returning(net, self.options)

    def step(
        self,
        net: Net,
        state: ReturningState,
        norm: CopyStates,
        x: Tensor,
        noise: Noise,
    ) -> Learned[ReturningState]:
        """Reset if one is due, then learn from x (N, ...) as ETA."""
        return filtered_entropy.returning_step(net, state, norm, x, self.options, self.options.reset_every)

    def step_together(
        self, net: StreamsNet, states: Sequence[ReturningState], norms: Sequence[CopyStates], x: Tensor
    ) -> list[Learned[ReturningState]]:
        """Reset the streams that are due, then learn from the selected images of S streams' batches x (S, N, ...)."""
        return filtered_entropy.returning_step_together(net, states, norms, x, self.options, self.options.reset_every)

    def answer(self, run: Run, state: ReturningState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned parameters."""
        return run(state.filtered.learning.params, norm["student"], x)
