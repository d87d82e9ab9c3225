"""No learning: parameters stay; only the normalizer's statistics move."""

import torch
from torch import Tensor

from adapters.base import CopyStates, Forward, Learned, Learner, Net, Noise, PartState, Run


class NoLearning(Learner[PartState]):
    """Observe each batch, answer with that pass, and learn nothing from it.

    Remembers: nothing.
    Needs: nothing.

    Example:
        >>> from adapters import create
        >>> create("unmix_tns").learner.name
        'none'
    """

    name = "none"
    paper = ""
    remembers = "nothing"
    normalizer = "source"

    def init(self, net: Net, generator: torch.Generator) -> PartState:
        """Return the empty state."""
        return PartState()

    def step(self, net: Net, state: PartState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[PartState]:
        """Observe x (N, ...) and return that pass."""
        forward, observed = net.observe({}, norm["student"], x)
        return Learned(forward, state, {"student": observed})

    def answer(self, run: Run, state: PartState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...)."""
        return run({}, norm["student"], x)
