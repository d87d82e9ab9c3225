"""Finds all monitors: the `Monitor` classes in the files of `service/monitoring/monitors`."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from service.monitoring import monitors
from service.monitoring.monitor import Monitor


@cache
def found() -> Mapping[str, Monitor]:
    """Return all monitors by name, sorted by name.

    Raises:
        ValueError: If two monitors or two signals have the same name.
    """
    modules = [import_module(f"{monitors.__name__}.{module.name}") for module in iter_modules(monitors.__path__)]
    kinds = [kind for module in modules for kind in vars(module).values() if _is_monitor(kind, module.__name__)]
    made = {kind.name: kind() for kind in sorted(kinds, key=lambda kind: kind.name)}
    _check_differ("monitors", [kind.name for kind in kinds])
    _check_differ("signals", [signal.name for kind in kinds for signal in kind.signals])
    return made


def _check_differ(kind: str, names: list[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"two {kind} have the name {repeated!r}; names must differ")


def _is_monitor(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Monitor) and value.__module__ == module
