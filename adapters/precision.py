"""What convolutions and matrix products compute in."""

import torch

from adapters.errors import UnfitModelError

FLOAT32, BFLOAT16 = "float32", "bfloat16"
PRECISIONS = (FLOAT32, BFLOAT16)


def check_bfloat16(opaque: str) -> None:
    """Refuse bfloat16 where it would not be computed in, or not by the processor itself.

    Args:
        opaque: Why the inside of the network cannot be reached; "" if it can.

    Raises:
        UnfitModelError: If it cannot be had; the message says why.
    """
    if opaque:
        raise UnfitModelError(f"bfloat16 is for networks that PyTorch runs, but {opaque}; float32 works")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise UnfitModelError("this processor does not compute in bfloat16 itself; float32 works")


def computing(precision: str) -> torch.autocast:
    """Return the context in which convolutions and matrix products compute so."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == BFLOAT16)
