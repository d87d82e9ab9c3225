"""The passes that are compiled for learners which take many in a step, as functions of tensors alone.

What they answer lies in one flat tuple: gradients where there are any, what the pass tells, statistics where they move.
"""

import torch
from torch import Tensor

from adapters.state import flatten
from service.models.graphs.export import Pass, told


class Reading(Pass):
    """A pass that leaves the statistics as they are."""

    def forward(self, x: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
        """Return logits, features and, if it is told, the drift of x (N, *input_shape)."""
        with torch.no_grad():
            return told(self._net.forward(*self.taken(given), x))


class Imitation(Pass):
    """A pass over the next batch that is to answer as a target says; the target (N, C) is given last."""

    def forward(self, x: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
        """Return gradients, logits, features, the drift if it is told, and the statistics after x (N, *input_shape)."""
        *others, target = given
        imitated = self._net.imitate(*self.taken(others), x, target)
        return *imitated.grads.values(), *told(imitated.forward), *flatten(imitated.norm).values()
