"""Two-sample tests that compare the features of a stream's newest images with the source's; run in the background."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.monitors.two_sample import kolmogorov_smirnov, maximum_mean_discrepancy

KEPT = 64
"""Newest images of a stream whose features are kept for the next comparison."""
LEAST = 32
"""Fewest images that are compared."""
PERMUTATIONS = 199
LEVEL = 0.005
"""p-value at and below which features count as different: the smallest that PERMUTATIONS can give."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The difference between the features of a stream's newest images and the source's.

    Attributes:
        mmd: Unbiased squared maximum mean discrepancy; about 0 for equal distributions.
        p_value: The p-value of `mmd`, by permutations.
        unlike: Share of the dimensions that differ by the Kolmogorov-Smirnov test, at LEVEL with Holm's correction.
    """

    mmd: float
    p_value: float
    unlike: float

    @property
    def differ(self) -> bool:
        """Whether the features differ from the source's at LEVEL."""
        return self.p_value <= LEVEL


def kept(before: Tensor | None, features: Tensor) -> Tensor:
    """Append a request's finite feature rows (N, d) to the kept ones, and return the newest (n, d), n at most KEPT."""
    fresh = features.detach().float()
    fresh = fresh[fresh.isfinite().all(1)]
    both = fresh if before is None else torch.cat([before, fresh])
    return both[-KEPT:].clone()


def compared(features: Tensor, reference: Tensor, seed: int) -> Compared:
    """Compare features (n, d) with the source's (m, d); `seed` decides the permutations."""
    generator = torch.Generator().manual_seed(seed)
    together = maximum_mean_discrepancy(features, reference, PERMUTATIONS, generator)
    alone = kolmogorov_smirnov(features, reference, "holm")
    unlike = (alone.p_value <= LEVEL).double().mean()
    return Compared(float(together.statistic), float(together.p_value), float(unlike))
