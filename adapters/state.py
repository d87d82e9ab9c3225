"""A state as a flat dict of named tensors and back; its size; whether it is finite."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from adapters.errors import StateError

T = TypeVar("T")


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
    return dict(_leaves(state, ""))


def unflatten(template: T, tensors: Mapping[str, Tensor]) -> T:
    """Rebuild a state like `template` from named tensors.

    Raises:
        StateError: If names, shapes or dtypes differ from the template's, or a value is not finite.
    """
    expected = flatten(template)
    _check_names(expected, tensors)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, expected[name])
    return rebuild(template, tensors)


def rebuild(template: T, tensors: Mapping[str, Tensor]) -> T:
    """Put named tensors in the places of a template's, unchecked (under vmap and export shapes differ)."""
    rebuilt: T = _rebuild(template, tensors, "")
    return rebuilt


def where(condition: Tensor, new: T, old: T) -> T:
    """Choose one of two states by a boolean scalar tensor, without a Python branch."""
    olds = flatten(old)
    return rebuild(new, {name: torch.where(condition, tensor, olds[name]) for name, tensor in flatten(new).items()})


def size_bytes(state: object) -> int:
    """Return the bytes of all tensors of a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(state).values())


def is_finite(state: object) -> bool:
    """Tell whether no tensor of a state holds NaN or infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in flatten(state).values() if tensor.is_floating_point())


def _children(value: object) -> Iterator[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return iter(value.items())
    if dataclasses.is_dataclass(value):
        return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return None


def _leaves(value: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    children = _children(value)
    if children is None:
        raise StateError(
            f"{path or 'the state'} is a {type(value).__name__}, expected tensors, mappings or dataclasses"
        )
    for name, child in children:
        yield from _leaves(child, f"{path}/{name}" if path else name)


def _rebuild(template: Any, tensors: Mapping[str, Tensor], path: str) -> Any:
    if isinstance(template, Tensor):
        return tensors[path]
    children = {
        name: _rebuild(child, tensors, f"{path}/{name}" if path else name) for name, child in _children(template) or ()
    }
    return children if isinstance(template, Mapping) else dataclasses.replace(template, **children)


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
