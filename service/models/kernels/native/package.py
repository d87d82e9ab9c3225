"""Loading of compiled packages."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

Run: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""Maps images and a list of tensors to tensors."""


def load(package: Path) -> Run:
    """Load the function that `compile` has written to a file. The file may be removed afterwards."""
    from torch._inductor import aoti_load_package

    run: Run = aoti_load_package(str(package))
    return run
