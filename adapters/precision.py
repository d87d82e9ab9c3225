"""The dtype that convolutions and matrix products compute in."""

import torch

from adapters.errors import UnfitModelError

FLOAT32, BFLOAT16 = "float32", "bfloat16"
PRECISIONS = (FLOAT32, BFLOAT16)


def check_bfloat16(opaque: str) -> None:
    """Refuse bfloat16 if PyTorch does not run the network, or if the processor does not support it natively.

    Args:
        opaque: Why the network's layers cannot be reached; "" if they can.

    Raises:
        UnfitModelError: If bfloat16 is not available; the message says why.
    """
    if opaque:
        raise UnfitModelError(f"bfloat16 is for networks that PyTorch runs, but {opaque}; float32 works")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise UnfitModelError("this processor does not compute in bfloat16 natively; float32 works")


def computing(precision: str) -> torch.autocast:
    """Return a context that makes convolutions and matrix products compute in this precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == BFLOAT16)
