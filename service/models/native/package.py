"""Machine code from a file."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

Run: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""Maps inputs and a list of tensors to tensors."""


def load(package: Path) -> Run:
    """Return the function that `making` has written into a file, which is not needed any more after that."""
    from torch._inductor import aoti_load_package

    run: Run = aoti_load_package(str(package))
    return run
