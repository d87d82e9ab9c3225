"""Restores a stream's monitors from a snapshot by name, so that versions with other monitors share the rest."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from adapters.errors import StateError
from adapters.state import check, flatten, rebuild
from service.monitoring.monitor_state import MonitorState


def restored(fresh: MonitorState, tensors: Mapping[str, Tensor]) -> tuple[MonitorState, list[str]]:
    """Return the monitors that named tensors hold, and the names of those that begin again.

    A monitor's tensors belong together, and are restored all or none: a detector with its mean but without its count
    would raise a false alarm.

    Raises:
        StateError: If a value is not finite, or is out of its range.
    """
    expected = flatten(fresh)
    stored, current = _by_monitor(tensors, expected), _by_monitor(expected, expected)
    chosen = dict(expected)
    restarted = sorted(stored.keys() - current.keys())
    for monitor, names in current.items():
        if stored.get(monitor) == names and all(_alike(tensors[name], expected[name]) for name in names):
            chosen |= {name: _finite(name, tensors[name]) for name in names}
        else:
            restarted.append(monitor)
    state = rebuild(fresh, chosen)
    check(state, "monitors")
    return state, restarted


def _by_monitor(names: Iterable[str], expected: Iterable[str]) -> dict[str, set[str]]:
    """Group tensor names by monitor: by folder, except in folders that hold several monitors."""
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
