"""Random numbers of a step, which depend only on the state's seed and its number of steps."""

import torch
from torch import Tensor


def step_seed(seed: int, steps: int) -> Tensor:
    """Return the seed () int64 of a step's draws; it differs from step to step and from seed to seed.

    Example:
        >>> bool(step_seed(0, 1) == step_seed(0, 1)), bool(step_seed(0, 1) == step_seed(0, 2))
        (True, False)
    """
    base = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    return torch.tensor((base + steps) % 2**63)


def generator_of(seed: Tensor) -> torch.Generator:
    """Return a generator with a step's seed ()."""
    return torch.Generator().manual_seed(int(seed))
