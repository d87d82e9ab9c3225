"""The passes that are compiled for learners that run many of them in a step, as functions of tensors.

Each returns one flat tuple: gradients if there are any, the results of the pass, and statistics if they change.
"""

import torch
from torch import Tensor

from adapters.state import flatten
from service.models.kernels.graphs.export import Pass, outputs_of


class Reading(Pass):
    """A pass that does not change the statistics."""

    def forward(self, x: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        """Return logits, features and, if there is one, the drift for x (N, *input_shape)."""
        with torch.no_grad():
            return outputs_of(self._net.forward(*self.unflattened(tensors), x))


class Imitation(Pass):
    """A pass over the next batch with the gradients towards a target (N, C), which is the last tensor."""

    def forward(self, x: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        """Return gradients, logits, features, the drift if there is one, and the statistics after x."""
        *others, target = tensors
        imitated = self._net.imitate(*self.unflattened(others), x, target)
        return *imitated.grads.values(), *outputs_of(imitated.forward), *flatten(imitated.norm).values()
