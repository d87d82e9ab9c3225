"""LAME: corrects a batch's outputs so that neighbours in feature space agree; the network does not change."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import normalize as unit

from adapters.base import OutputAdjuster
from adapters.functional import affinity
from adapters.options import Options, option
from adapters.values import Forward, PartState


@dataclass(frozen=True, kw_only=True)
class LAMEOptions(Options):
    """The affinity between images, and the number of iterations."""

    kernel: Literal["rbf", "knn", "linear"] = option("rbf", "affinity; rbf smooths larger batches more strongly")
    k: int = option(5, "neighbours (rbf counts the image itself)", low=1, high=1024)
    iterations: int = option(
        100, "maximum number of iterations; they stop at a relative energy change of 1e-8", low=1, high=1000
    )


class LAME(OutputAdjuster[PartState]):
    """Minimise sum_i KL(z_i || q_i) - sum_ij w_ij z_i z_j over assignments z, one batch at a time.

    Returns corrected probabilities. Helps if neighbours in the batch share labels (video, class-correlated streams),
    and hurts on i.i.d. batches. A single image's output is not changed. With another normalizer than `source`, or with
    a learner, it works on that pipeline's outputs and features: our extension of the paper.

    Remembers: nothing.
    Needs: features.
    Reference: Boudiaf et al., Parameter-free Online Test-time Adaptation, CVPR 2022 (eq. 5 and algorithm 1).

    Example:
        >>> from adapters import create
        >>> str(create("lame").spec)
        'source+lame'
    """

    name = "lame"
    paper = "Boudiaf et al.: Parameter-free Online Test-time Adaptation, CVPR 2022"
    remembers = "nothing"
    options_class = LAMEOptions
    options: LAMEOptions

    def init(self, classes: int) -> PartState:
        """Return the empty state."""
        return PartState()

    def adjust(self, state: PartState, forward: Forward) -> tuple[Tensor, PartState]:
        """Return corrected probabilities (N, C)."""
        probabilities = forward.logits.softmax(1)
        if probabilities.shape[0] < 2:
            return probabilities, state
        return assign(probabilities, self._affinity(unit(forward.features, dim=1)), self.options.iterations), state

    def _affinity(self, features: Tensor) -> Tensor:
        if self.options.kernel == "linear":
            return affinity.linear(features)
        kernel = affinity.rbf if self.options.kernel == "rbf" else affinity.knn
        return kernel(features, self.options.k)


def assign(q: Tensor, w: Tensor, iterations: int) -> Tensor:
    """Iterate z <- softmax(log q + w z) from z = q; z no longer changes once the energy has converged.

    Args:
        q: Probabilities (N, C).
        w: Affinities (N, N).
        iterations: The number of iterations; fixed, so that the function has no branch on data.

    Example:
        >>> assign(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.ones(2, 2), 100).argmax(1)
        tensor([0, 0])
    """
    log_q = torch.log(q + 1e-10)
    zero = torch.zeros((), dtype=torch.int64, device=q.device)
    start = (q, w @ q, torch.full((), torch.inf, dtype=q.dtype, device=q.device), zero != 0, zero)

    def moved(z: Tensor, pull: Tensor, energy: Tensor, done: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        z = torch.where(done, z, (log_q + pull).softmax(1))
        pull = w @ z
        now = (z * (torch.log(z.clamp_min(1e-20)) - log_q - pull)).sum()
        done = done | ((number > 1) & ((now - energy).abs() <= 1e-8 * energy.abs()))
        return z, pull, now, done, number + 1

    def goes_on(_z: Tensor, _pull: Tensor, _energy: Tensor, done: Tensor, number: Tensor) -> Tensor:
        return ~done & (number < iterations)

    if torch.compiler.is_exporting():  # one loop in the graph, instead of a hundred copies of its body
        looped: tuple[Tensor, ...] = while_loop(goes_on, moved, start)  # type: ignore[no-untyped-call]
        return looped[0]
    passed: tuple[Tensor, ...] = start
    for _ in range(iterations):
        passed = moved(*passed)
    return passed[0]
