"""Finds the monitors: every `Monitor` class in a file of `service/monitoring/monitors`."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from service.monitoring import monitors
from service.monitoring.monitor import Monitor


@cache
def found() -> Mapping[str, Monitor]:
    """Return every monitor by name, in the order of the names.

    Raises:
        ValueError: If two monitors, or two of their signals, have one name.
    """
    modules = [import_module(f"{monitors.__name__}.{module.name}") for module in iter_modules(monitors.__path__)]
    kinds = [kind for module in modules for kind in vars(module).values() if _is_monitor(kind, module.__name__)]
    made = {kind.name: kind() for kind in sorted(kinds, key=lambda kind: kind.name)}
    _check_differ("monitors", [kind.name for kind in kinds])
    _check_differ("signals", [signal.name for kind in kinds for signal in kind.signals])
    return made


def _check_differ(what: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two {what} have the name {twice!r}; names must differ")


def _is_monitor(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Monitor) and value.__module__ == module
