"""EATA: ETA held to the source model where the source data say that a parameter matters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters import filtered
from adapters.base import CopyStates, Forward, Learned, Learner, Needs, Net, Noise, Run
from adapters.filtered import FilteredState, FilterOptions
from adapters.functional import fisher
from adapters.options import option


@dataclass(frozen=True, kw_only=True)
class EATAOptions(FilterOptions):
    """ETA's options, and how strongly parameters are held."""

    fisher_alpha: float = option(2000.0, "strength of the pull to the source; fits the Fisher's batch size", low=0.0)


class EATA(Learner[FilteredState]):
    """Learn as ETA, and pull each parameter to its source value by its Fisher information.

    Answers with the logits from before the step. Without the Fisher artefact it cannot run; `eta` and `rdumb` can.

    Remembers: weight and bias of the norm layers, optimizer moments, the mean output (C).
    Needs: norm layers with weight and bias; the source artefact `fisher`, made from 500 or more unlabelled images.
    Reference: Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022 (eqs. 2-9).

    Example:
        >>> from adapters import create
        >>> create("eata").learner.options.fisher_alpha
        2000.0
    """

    name = "eata"
    paper = "Niu et al.: Efficient Test-Time Model Adaptation without Forgetting, ICML 2022"
    remembers = "weight and bias of the norm layers, with optimizer moments; the mean output"
    needs = Needs(affine=True, gradient=True, artefacts=("fisher",))
    options_class = EATAOptions
    options: EATAOptions

    def init(self, net: Net, generator: torch.Generator) -> FilteredState:
        """Return the source's weight and bias, zero moments and no mean output yet."""
        return filtered.init(net, self.options)

    def step(
        self,
        net: Net,
        state: FilteredState,
        norm: CopyStates,
        x: Tensor,
        noise: Noise,
    ) -> Learned[FilteredState]:
        """Learn from the selected images of x (N, ...), held by the Fisher information."""
        params = state.learning.params
        information = {name: net.artefacts[f"fisher.{name}"] for name in params}
        pull = fisher.pull(params, net.affine, information, self.options.fisher_alpha)
        return filtered.step(net, state, norm, x, self.options, pull)

    def answer(self, run: Run, state: FilteredState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) by the learned parameters."""
        return run(state.learning.params, norm["student"], x)
