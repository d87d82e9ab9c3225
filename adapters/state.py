"""A state as a flat dict of named tensors and back; its size; whether it is finite."""

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
"""The range of integers that have none of their own."""
ALONE = "tensor"
"""The name of a tensor that is no part of a state."""


@runtime_checkable
class Checked(Protocol):
    """A state that refuses values which contradict each other."""

    def check(self) -> None:
        """Raise StateError if there are any."""


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
    """Refuse a state with values that no stream can have reached; where a part declares ranges, these hold.

    Raises:
        StateError: Naming the tensor, its value and its range.
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
    """Put named tensors in the places of a template's, unchecked (under vmap and export shapes differ)."""
    rebuilt: T = _rebuild(template, tensors, "")
    return rebuilt


def where(condition: Tensor, new: T, old: T) -> T:
    """Choose one of two states by a boolean scalar tensor, without a Python branch."""
    olds = flatten(old)
    return rebuild(new, {name: torch.where(condition, tensor, olds[name]) for name, tensor in flatten(new).items()})


def stacked(states: Sequence[T]) -> T:
    """Return states of one form as one of that form, whose tensors are (S, ...).

    Example:
        >>> stacked([{"w": torch.zeros(2)}] * 3)["w"].shape
        torch.Size([3, 2])
    """
    each = [flatten(state) for state in states]
    return rebuild(states[0], {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]})


def unstacked(state: T, count: int) -> list[T]:
    """Take apart the states that `stacked` has put together: tensors own their memory, and keep no other alive."""
    each = {name: [part.clone() for part in tensor.unbind()] for name, tensor in flatten(state).items()}
    return [rebuild(state, {name: parts[index] for name, parts in each.items()}) for index in range(count)]


def part(state: T, indices: list[int]) -> T:
    """Return some of the states that `stacked` has put together, still together."""
    return rebuild(state, {name: tensor[indices] for name, tensor in flatten(state).items()})


def mapped(function: Callable[..., R], *states: object) -> R:
    """Return what a function of states makes of each of several that are put together, put together.

    Args:
        function: From states or tensors to a state; without a Python branch on data.
        states: Stacked tensors, or states of them.
    """
    results: list[R] = []

    def of_tensors(given: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        own = [
            tensors[ALONE] if isinstance(state, Tensor) else rebuild(state, tensors)
            for state, tensors in zip(states, given, strict=True)
        ]
        results.append(function(*own))
        return flatten(results[0])

    given = [{ALONE: state} if isinstance(state, Tensor) else flatten(state) for state in states]
    tensors = torch.vmap(of_tensors)(given)
    return rebuild(results[0], tensors)


def size_bytes(state: object) -> int:
    """Return the bytes of all tensors of a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(state).values())


def is_finite(state: object) -> bool:
    """Tell whether no tensor of a state holds NaN or infinity."""
    tensors = [tensor for tensor in flatten(state).values() if tensor.is_floating_point()]
    if not tensors:
        return True
    # Norms are a third of the work: what is not finite shows in them. Great values may have none that is finite.
    norms = torch.stack(list(torch._foreach_norm(tensors)))
    return bool(torch.isfinite(norms).all()) or all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def children(value: object, path: str = "") -> Iterable[tuple[str, Any]]:
    """Return what a state holds by name, one level down.

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


def _check_names(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unknown:
        raise StateError(f"the state lacks {missing[:3] or 'nothing'} and has {unknown[:3] or 'nothing'} beyond it")


def _check_tensor(name: str, given: Tensor, expected: Tensor) -> None:
    if given.shape != expected.shape or given.dtype != expected.dtype:
        raise StateError(
            f"{name} is {given.dtype} {tuple(given.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
        )
    if given.is_floating_point() and not bool(torch.isfinite(given).all()):
        raise StateError(f"{name} holds NaN or infinity")
