"""EATA: ETA with a penalty that keeps parameters near their source values if they matter for the source data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from adapters.base import JointLearner, Learned, Needs, Net, StreamsNet
from adapters.functional import fisher
from adapters.learning import filtered_entropy
from adapters.learning.filtered_entropy import FilterOptions, ReturningState
from adapters.options import option
from adapters.source import SourceImages, SourceModel
from adapters.values import CopyStates, Forward, Noise, Run

RETURN_EVERY = 1000
"""Steps between resets if the model has no Fisher information; RDumb's interval."""


@dataclass(frozen=True, kw_only=True)
class EATAOptions(FilterOptions):
    """Options of ETA, and the strength of the penalty."""

    fisher_alpha: float = option(
        2000.0, "strength of the penalty; depends on the batch size of the Fisher information", low=0.0
    )


class EATA(JointLearner[ReturningState]):
    """Learn as ETA, and penalise each parameter's distance from its source value by its Fisher information.

    Answers with the logits from before the step. Without the Fisher artefact there is no penalty, and the learner
    instead returns to the source every 1000 steps, as `rdumb` does.

    Remembers: weight and bias of the norm layers, optimizer moments, the mean output (C), a count.
    Needs: norm layers with weight and bias; the source artefact `fisher`, made from 500 or more unlabelled images.
    Reference: Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022 (eqs. 2-9).

    Example:
        >>> from adapters import create
        >>> create("eata").learner.options.fisher_alpha
        2000.0
    """

    name = "eata"
    paper = "Niu et al.: Efficient Test-Time Model Adaptation without Forgetting, ICML 2022"
    remembers = "weight and bias of the norm layers, with optimizer moments; the mean output; a count"
    needs = Needs(affine=True, gradient=True)
    artefact = "fisher"
    answers_first = True
    options_class = EATAOptions
    options: EATAOptions

    def degraded(self, source: SourceModel) -> str:
        """Return a note if there is no Fisher information, so that nothing holds the parameters."""
        if source.has_artefact(self.artefact):
            return ""
        return f"eata has no Fisher information (`acclimate calibrate` makes it): it resets every {RETURN_EVERY} steps"

    def calibrate(
        self, net: Net, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Return the Fisher diagonal by parameter name, with its batch size and its number of images."""
        batches = [x for x, _ in data.batches(batch)]

        def advancing() -> Iterator[Tensor]:
            for x in batches:
                yield x
                advance(1 / len(batches))

        counts = {"batch": torch.tensor(batch), "images": torch.tensor(sum(map(len, batches)))}
        return {**fisher.diagonal(net, advancing()), **counts}

    def init(self, net: Net, generator: torch.Generator) -> ReturningState:
        """Return the source's weight and bias, zero moments and no mean output yet."""
        return filtered_entropy.init_returning(net, self.options)

    def step(
        self,
        net: Net,
        state: ReturningState,
        norm: CopyStates,
        x: Tensor,
        noise: Noise,
    ) -> Learned[ReturningState]:
        """Learn from the selected images of x (N, ...), with the Fisher penalty."""
        params = state.filtered.learning.params
        information = fisher.available(net.artefacts, params)
        if not information:
            return filtered_entropy.returning_step(net, state, norm, x, self.options, RETURN_EVERY)
        pull = fisher.pull(params, net.affine, information, self.options.fisher_alpha)
        learned = filtered_entropy.step(net, state.filtered, norm, x, self.options, pull)
        return filtered_entropy.counted(learned, state)

    def step_together(
        self, net: StreamsNet, states: Sequence[ReturningState], norms: Sequence[CopyStates], x: Tensor
    ) -> list[Learned[ReturningState]]:
        """Learn from the selected images of S streams' batches x (S, N, ...), with the Fisher penalty."""
        anchor = net.affine
        information = fisher.available(net.artefacts, anchor)
        if not information:
            return filtered_entropy.returning_step_together(net, states, norms, x, self.options, RETURN_EVERY)
        pull = partial(fisher.pull, anchor=anchor, fisher=information, strength=self.options.fisher_alpha)
        learned = filtered_entropy.step_together(
            net, [state.filtered for state in states], norms, x, self.options, pull
        )
        return [filtered_entropy.counted(each, state) for each, state in zip(learned, states, strict=True)]

    def answer(self, run: Run, state: ReturningState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned parameters."""
        return run(state.filtered.learning.params, norm["student"], x)
