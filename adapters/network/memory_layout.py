"""The memory format of a network's inputs: channels last if that is fast and safe."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from adapters.source import SourceModel

UNSAFE = frozenset({torch.ops.aten.native_group_norm})
"""Operations whose backward crashes the process for a channels-last input without gradient (PyTorch 2.13)."""


def memory_format(network: nn.Module, source: SourceModel, dtype: torch.dtype) -> torch.memory_format:
    """Return the memory format of inputs: channels last, unless a layer or a call such as `view` does not support it.

    On a CPU this makes convolutions and norm layers in single precision a quarter faster, forward and backward.
    """
    convolves = any(isinstance(module, nn.Conv2d) for module in network.modules())
    over_maps = len(source.input_shape) == len(("C", "H", "W"))
    if source.opaque or not (convolves and over_maps) or dtype == torch.float64:
        return torch.contiguous_format
    blank = torch.zeros(1, *source.input_shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
    called = _Called()
    try:
        with torch.no_grad(), called:
            network(blank)
    except RuntimeError:
        return torch.contiguous_format
    return torch.contiguous_format if called.operations & UNSAFE else torch.channels_last


def protect(network: nn.Module) -> None:
    """Give every group norm contiguous inputs.

    Weights may be channels last, and the network's own code may convert activations to that format.
    """
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)


def _contiguous(
    _module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    return tuple(x.contiguous() for x in inputs), {name: x.contiguous() for name, x in named.items()}


class _Called(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch gives it no types
    """Collects the operations that are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.operations: set[Any] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, without which PyTorch imports its compiler for 2 s, only to exempt this class from it."""
        return False

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))
