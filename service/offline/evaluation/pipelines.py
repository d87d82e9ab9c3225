"""Pipelines as one text, `SPEC[,PART.OPTION=VALUE]...`: read, varied, and asked whether they draw numbers."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from adapters import Adapter, SourceModel, create
from adapters.errors import OptionError
from adapters.state import flatten


def read_pipeline(text: str, seed: int = 0) -> Adapter:
    """Make the adapter that `SPEC[,PART.OPTION=VALUE]...` names.

    Raises:
        AdapterError: If the spec or an option is wrong.

    Example:
        >>> read_pipeline("unmix_tns+tent,tent.lr=1e-3").learner.options.lr
        0.001
    """
    spec, *assignments = text.split(",")
    options: dict[str, Any] = {}
    for assignment in assignments:
        name, _, value = assignment.strip().partition("=")
        part, _, option = name.partition(".")
        if not (part and option and value) or part in ("seed", "precision"):
            raise OptionError(f"{assignment!r} in {text!r} is no option, expected PART.OPTION=VALUE")
        options.setdefault(part, {})[option] = _value(value)
    return create(spec, seed=seed, **options)


def with_options(text: str, options: Mapping[str, str]) -> str:
    """Return a pipeline's text with options (`PART.OPTION` to value) set; one that it sets already is replaced.

    Example:
        >>> with_options("batch+eta,eta.lr=1e-3", {"eta.lr": "1e-4", "eta.d_margin": "0.4"})
        'batch+eta,eta.lr=1e-4,eta.d_margin=0.4'
    """
    spec, *assignments = text.split(",")
    given = dict(assignment.strip().split("=", 1) for assignment in assignments)
    return ",".join([spec, *(f"{name}={value}" for name, value in {**given, **options}.items())])


def is_random(text: str, source: SourceModel) -> bool:
    """Tell whether a pipeline draws numbers: its start differs from seed to seed, or its steps draw.

    Raises:
        AdapterError: If the spec is wrong or the model unfit for it.
    """
    adapters = [read_pipeline(text, seed) for seed in (0, 1)]
    starts = [flatten(adapter.prepare(source).initial) for adapter in adapters]
    differ = (not torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items() if name != "seed")
    return any(differ) or adapters[0].draws


def _value(text: str) -> object:
    """A JSON value, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
