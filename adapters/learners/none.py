"""No learning: parameters are fixed; only the normalizer's statistics change."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.base import JointLearner, Learned, Net, StreamsNet
from adapters.state import stacked, unstacked
from adapters.values import CopyStates, Forward, Noise, PartState, Run


class NoLearning(JointLearner[PartState]):
    """Observe each batch and answer with that pass; no parameter learns.

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

    def step_together(
        self, net: StreamsNet, states: Sequence[PartState], norms: Sequence[CopyStates], x: Tensor
    ) -> list[Learned[PartState]]:
        """Observe the batches x (S, N, ...) of S streams in one pass."""
        forward, observed = net.observe({}, stacked([norm["student"] for norm in norms]), x)
        passes = zip(forward.by_stream(), unstacked(observed, len(x)), states, strict=True)
        return [Learned(own, state, {"student": norm}) for own, norm, state in passes]

    def answer(self, run: Run, state: PartState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...)."""
        return run({}, norm["student"], x)
