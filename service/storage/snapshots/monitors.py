"""Monitors of a stream out of a snapshot: restored by name, so that versions with other monitors share the rest."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from adapters.errors import StateError
from adapters.state import check, flatten, rebuild
from service.monitoring.monitor_state import MonitorState


def restored(fresh: MonitorState, tensors: Mapping[str, Tensor]) -> tuple[MonitorState, list[str]]:
    """Return the monitors that named tensors hold, and the names of those that begin anew.

    What one monitor remembers belongs together, and is taken as a whole or not at all: a detector whose mean is there
    and whose count is not would raise a false alarm.

    Raises:
        StateError: If a value is not finite, or out of its range.
    """
    expected = flatten(fresh)
    given, wanted = _by_monitor(tensors, expected), _by_monitor(expected, expected)
    taken = dict(expected)
    anew = sorted(given.keys() - wanted.keys())
    for monitor, names in wanted.items():
        if given.get(monitor) == names and all(_alike(tensors[name], expected[name]) for name in names):
            taken |= {name: _finite(name, tensors[name]) for name in names}
        else:
            anew.append(monitor)
    state = rebuild(fresh, taken)
    check(state, "monitors")
    return state, anew


def _by_monitor(names: Iterable[str], expected: Iterable[str]) -> dict[str, set[str]]:
    """Group names of tensors by monitor: by folder, but for those in folders that hold other monitors too."""
    folders = {_folder(name) for name in expected}
    above = {"", *(_folder(folder) for folder in folders)}
    grouped: dict[str, set[str]] = {}
    for name in names:
        folder = _folder(name)
        grouped.setdefault(name if folder in above else folder, set()).add(name)
    return grouped


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _alike(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.shape == expected.shape and tensor.dtype == expected.dtype


def _finite(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise StateError(f"{name} holds NaN or infinity")
    return tensor
