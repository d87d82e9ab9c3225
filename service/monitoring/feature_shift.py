"""Features of a stream's newest images beside the source's, by two-sample tests: in the background, where time is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.monitors.two_sample import kolmogorov_smirnov, maximum_mean_discrepancy

KEPT = 64
"""Images of a stream whose features are kept for the next comparison."""
LEAST = 32
"""Images that a comparison rests on, at least."""
PERMUTATIONS = 199
LEVEL = 0.005
"""p-value at and below which features are told to be unlike; the least that so many permutations can give."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What tells the features of a stream's newest images from the source's.

    Attributes:
        mmd: Unbiased squared maximum mean discrepancy; 0 where they are alike.
        p_value: Of it, by permutations.
        unlike: Share of the dimensions that differ by Kolmogorov-Smirnov, at LEVEL with Holm's correction.
    """

    mmd: float
    p_value: float
    unlike: float

    @property
    def differ(self) -> bool:
        """Whether the features are told to be unlike the source's."""
        return self.p_value <= LEVEL


def kept(before: Tensor | None, features: Tensor) -> Tensor:
    """Return the newest features (n, d), n at most KEPT, after those of a request (N, d); finite rows alone."""
    fresh = features.detach().float()
    fresh = fresh[fresh.isfinite().all(1)]
    both = fresh if before is None else torch.cat([before, fresh])
    return both[-KEPT:].clone()


def compared(features: Tensor, reference: Tensor, seed: int) -> Compared:
    """Compare features (n, d) with the source's (m, d); the same seed permutes alike."""
    generator = torch.Generator().manual_seed(seed)
    together = maximum_mean_discrepancy(features, reference, PERMUTATIONS, generator)
    alone = kolmogorov_smirnov(features, reference, "holm")
    unlike = (alone.p_value <= LEVEL).double().mean()
    return Compared(float(together.statistic), float(together.p_value), float(unlike))
