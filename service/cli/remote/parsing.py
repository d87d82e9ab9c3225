"""Parses settings of the form `part.option=value` into the server's form."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from service.cli.remote.errors import MistakeError

ALONE = ("seed",)
"""Options that belong to no part."""


def options(typed: Iterable[str], present: Mapping[str, Any]) -> dict[str, Any]:
    """Return the present options by part, updated with those typed.

    Raises:
        MistakeError: If one does not have the form `part.option=value`.

    Example:
        >>> options(["tent.lr=1e-4", "seed=7"], {"tent": {"lr": 0.1, "steps": 1}})
        {'tent': {'lr': 0.0001, 'steps': 1}, 'seed': 7}
    """
    made = {name: dict(value) if isinstance(value, dict) else value for name, value in present.items()}
    for text in typed:
        name, value = _split(text, "--option", "tent.lr=1e-4, or seed=7")
        part, dot, option = name.partition(".")
        if dot and option:
            made.setdefault(part, {})[option] = value
        elif name in ALONE:
            made[name] = value
        else:
            raise MistakeError(f"--option is {text!r}, expected one such as tent.lr=1e-4, or seed=7")
    return made


def guard(typed: Iterable[str], present: Mapping[str, Any]) -> dict[str, Any]:
    """Return a guard's present rules, updated with those typed.

    Raises:
        MistakeError: If one does not have the form `rule=response`.

    Example:
        >>> guard(["collapse=off", "every=100"], {"collapse": "reset", "harm": "skip"})
        {'collapse': 'off', 'harm': 'skip', 'every': 100}
    """
    return {**present, **dict(_split(text, "--guard", "collapse=reset, or every=1000") for text in typed)}


def _split(text: str, option: str, example: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise MistakeError(f"{option} is {text!r}, expected one such as {example}")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value.strip()
