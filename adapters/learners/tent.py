"""TENT: minimise the entropy of the model's predictions by the norm layers' weight and bias."""

from collections.abc import Mapping

import torch
from torch import Tensor

from adapters.base import Learned, Learner, Needs, Net
from adapters.functional.entropy import entropy_of_logits
from adapters.functional.optim import OptimOptions
from adapters.learning.gradient_step import Learning, descend, observe_gradient, start
from adapters.values import CopyStates, Forward, Noise, Run


class Tent(Learner[Learning]):
    """Descend the mean softmax entropy of each batch; answer with the logits from before the step.

    Simple, and gains quickly on i.i.d. batches of 64 or more. Collapses on single images, on label-correlated streams
    and at high learning rates, slowly and without a visible sign in its own entropy.

    Remembers: weight and bias of the norm layers, their optimizer moments.
    Needs: norm layers with weight and bias (batch, layer or group norm).
    Reference: Wang et al., Tent: Fully Test-time Adaptation by Entropy Minimization, ICLR 2021 (eq. 1).

    Example:
        >>> from adapters import create
        >>> str(create("tent").spec)
        'batch+tent'
    """

    name = "tent"
    paper = "Wang et al.: Tent: Fully Test-time Adaptation by Entropy Minimization, ICLR 2021"
    remembers = "weight and bias of the norm layers, with optimizer moments"
    needs = Needs(affine=True, gradient=True)
    options_class = OptimOptions
    options: OptimOptions

    def init(self, net: Net, generator: torch.Generator) -> Learning:
        """Return the source's weight and bias, and zero moments."""
        return start(net.affine, self.options)

    def step(self, net: Net, state: Learning, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[Learning]:
        """Descend the mean entropy of x (N, ...)."""

        def mean_entropy(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
            return entropy_of_logits(forward.logits).mean(), {}

        grads, _, forward, observed = observe_gradient(net, state.params, norm["student"], x, mean_entropy)
        return Learned(forward, descend(state, grads, self.options), {"student": observed})

    def answer(self, run: Run, state: Learning, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the learned parameters."""
        return run(state.params, norm["student"], x)
