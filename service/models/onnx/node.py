"""A node in the context of its graph: its attributes, its constant inputs, and its input shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.errors import UnfitError
from service.models.onnx.reader import Node

PROBES = (2, 3)
"""Sizes of two batches whose shapes are followed through a graph. Dimensions that differ depend on the batch size."""


@dataclass(frozen=True)
class Operand:
    """A value of a graph for both probes; if it depends on the images (`live`), its tensors are on device `meta`."""

    each: tuple[Tensor, Tensor]
    live: bool = False

    @property
    def settled(self) -> bool:
        """Whether the value is the same for every batch."""
        first, second = self.each
        return not self.live and (first is second or torch.equal(first, second))


@dataclass(frozen=True)
class Site:
    """A node with its operands; an omitted optional input is None."""

    node: Node
    operands: Sequence[Operand | None]
    opset: int

    def refusal(self, why: str) -> UnfitError:
        """Return the error that says why this node is not supported."""
        return UnfitError(f"its node {self.node.name!r} ({self.node.op}) {why}")

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.refusal(f"has {name} = {value!r}, expected an integer")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a numeric attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise self.refusal(f"has {name} = {value!r}, expected a number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """Return a text attribute."""
        return str(self.node.attributes.get(name, default))

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return an attribute that is a list of integers, as many as `default` has; if that is (), of any length."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, tuple) or (default and len(value) != len(default)):
            raise self.refusal(f"has {name} = {value!r}, expected {len(default) or 'some'} integers")
        return tuple(int(each) for each in value)

    def operand(self, position: int) -> Operand | None:
        """Return an input, or None if it is omitted."""
        return self.operands[position] if position < len(self.operands) else None

    def tensor(self, position: int) -> Tensor | None:
        """Return an input that is the same for every batch, or None if it is omitted."""
        operand = self.operand(position)
        if operand is None:
            return None
        if not operand.settled:
            raise self.refusal(f"takes its input {position} from the images")
        return operand.each[0]

    def needed(self, position: int) -> Tensor:
        """Return a required input that is the same for every batch."""
        tensor = self.tensor(position)
        if tensor is None:
            raise self.refusal(f"lacks its input {position}")
        return tensor

    def listed(self, position: int, name: str) -> tuple[int, ...] | None:
        """Return integers from an input or, in earlier opsets, an attribute; None if neither is present."""
        tensor = self.tensor(position)
        if tensor is not None:
            return tuple(int(value) for value in tensor.flatten().tolist())
        return self.integers(name, ()) if name in self.node.attributes else None

    def shapes(self, position: int = 0) -> tuple[torch.Size, torch.Size]:
        """Return the shapes of an input for the two probes."""
        operand = self.operand(position)
        if operand is None:
            raise self.refusal(f"lacks its input {position}")
        first, second = operand.each
        return first.shape, second.shape

    @property
    def rank(self) -> int:
        """The number of dimensions of the first input."""
        return len(self.shapes()[0])


class Apply(nn.Module):
    """A function of tensors as a layer."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the function."""
        return self._function(*inputs)
