"""Conversion of a state to a flat dict of named tensors and back, and checks of its size and values."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from torch import Tensor

from adapters.errors import StateError

T = TypeVar("T")
R = TypeVar("R")
Range: TypeAlias = tuple[float, float]
"""Least and greatest value."""
COUNT: Range = (0, 2**53)
"""The range of integer tensors whose state declares none."""
ALONE = "tensor"
"""The name of a tensor that is passed to `mapped` by itself."""


@runtime_checkable
class Checked(Protocol):
    """A state with a check of its own values."""

    def check(self) -> None:
        """Raise StateError if values contradict each other."""


def flatten(state: object) -> dict[str, Tensor]:
    """Name every tensor of a state by its path, in a fixed order.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Velocity:
        ...     v: dict[str, Tensor]
        >>> flatten({"sgd": Velocity(v={"bn.weight": torch.zeros(2)})})
        {'sgd/v/bn.weight': tensor([0., 0.])}
    """
    named: dict[str, Tensor] = {}
    _name_leaves(state, "", named)
    return named


def unflatten(template: T, tensors: Mapping[str, Tensor]) -> T:
    """Rebuild a state like `template` from named tensors.

    Raises:
        StateError: If names, shapes or dtypes differ from the template's, or a value is not finite or out of range.
    """
    expected = flatten(template)
    _check_names(expected, tensors)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, expected[name])
    state = rebuild(template, tensors)
    check(state)
    return state


def check(state: object, path: str = "") -> None:
    """Refuse a state with values that no stream can reach: outside declared ranges, or contradicting each other.

    Raises:
        StateError: If there are any; the message names the tensor, its value and its range.
    """
    ranges: Mapping[str, Range] = getattr(type(state), "ranges", {})
    for name, child in children(state, path):
        below = f"{path}/{name}" if path else name
        if not isinstance(child, Tensor):
            check(child, below)
        elif name in ranges or child.dtype in (torch.int32, torch.int64):
            _check_range(below, child, ranges.get(name, COUNT))
    if isinstance(state, Checked):
        state.check()


def _check_range(name: str, tensor: Tensor, expected: Range) -> None:
    if not tensor.numel():
        return
    least, greatest = tensor.min().item(), tensor.max().item()
    if not expected[0] <= least <= greatest <= expected[1]:
        wrong = greatest if greatest > expected[1] else least
        raise StateError(f"{name} holds {wrong:g}, expected {expected[0]:g} to {expected[1]:g}")


def rebuild(template: T, tensors: Mapping[str, Tensor]) -> T:
    """Build a state like `template` from named tensors without checks (under vmap and export shapes differ)."""
    rebuilt: T = _rebuild(template, tensors, "")
    return rebuilt


def where(condition: Tensor, new: T, old: T) -> T:
    """Select one of two states by a boolean scalar tensor, without a Python branch."""
    olds = flatten(old)
    return rebuild(new, {name: torch.where(condition, tensor, olds[name]) for name, tensor in flatten(new).items()})


def stacked(states: Sequence[T]) -> T:
    """Stack S states of the same structure into one, whose tensors are (S, ...).

    Example:
        >>> stacked([{"w": torch.zeros(2)}] * 3)["w"].shape
        torch.Size([3, 2])
    """
    each = [flatten(state) for state in states]
    return rebuild(states[0], {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]})


def unstacked(state: T, count: int) -> list[T]:
    """Split a stacked state into `count` states; tensors own their memory, so that no state keeps another's alive."""
    each = {name: [part.clone() for part in tensor.unbind()] for name, tensor in flatten(state).items()}
    return [rebuild(state, {name: parts[index] for name, parts in each.items()}) for index in range(count)]


def part(state: T, indices: list[int]) -> T:
    """Select some streams from a stacked state by their indices; return them stacked."""
    return rebuild(state, {name: tensor[indices] for name, tensor in flatten(state).items()})


def mapped(function: Callable[..., R], *states: object) -> R:
    """Apply a function to stacked states, stream by stream, by vmap; return its results, stacked.

    Args:
        function: Maps states or tensors of one stream to a state; it has no Python branch on data.
        states: Stacked tensors, or stacked states.
    """
    results: list[R] = []

    def of_tensors(one_stream: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        own = [
            tensors[ALONE] if isinstance(state, Tensor) else rebuild(state, tensors)
            for state, tensors in zip(states, one_stream, strict=True)
        ]
        results.append(function(*own))
        return flatten(results[0])

    flat = [{ALONE: state} if isinstance(state, Tensor) else flatten(state) for state in states]
    tensors = torch.vmap(of_tensors)(flat)
    return rebuild(results[0], tensors)


def size_bytes(state: object) -> int:
    """Return the size of all tensors of a state in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(state).values())


def is_finite(state: object) -> bool:
    """Return whether all tensors of a state are finite."""
    tensors = [tensor for tensor in flatten(state).values() if tensor.is_floating_point()]
    if not tensors:
        return True
    # Norms take a third of the time, and NaN or infinity shows in them. The norm of large finite values may overflow.
    norms = torch.stack(list(torch._foreach_norm(tensors)))
    return bool(torch.isfinite(norms).all()) or all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def children(value: object, path: str = "") -> Iterable[tuple[str, Any]]:
    """Return the direct children of a state, by name.

    Raises:
        StateError: If the value is neither a mapping nor a dataclass; the message names its path.
    """
    if isinstance(value, Mapping):
        return value.items()
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return [(name, getattr(value, name)) for name in _fields(kind)]
    raise StateError(f"{path or 'the state'} is a {type(value).__name__}, expected tensors, mappings or dataclasses")


def _name_leaves(value: object, path: str, named: dict[str, Tensor]) -> None:
    for name, child in children(value, path):
        below = f"{path}/{name}" if path else name
        if isinstance(child, Tensor):
            named[below] = child
        else:
            _name_leaves(child, below, named)


@lru_cache(maxsize=256)
def _fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _rebuild(template: Any, tensors: Mapping[str, Tensor], path: str) -> Any:
    if isinstance(template, Tensor):
        return tensors[path]
    rebuilt = {
        name: _rebuild(child, tensors, f"{path}/{name}" if path else name) for name, child in children(template, path)
    }
    return rebuilt if isinstance(template, Mapping) else dataclasses.replace(template, **rebuilt)


def _check_names(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise StateError(f"the state lacks {missing[:3] or 'nothing'} and has unexpected {unknown[:3] or 'nothing'}")


def _check_tensor(name: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
        raise StateError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise StateError(f"{name} holds NaN or infinity")
