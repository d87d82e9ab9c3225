"""Pipelines as text, `SPEC[,PART.OPTION=VALUE]...`: parses them, sets options, and tests whether they are random."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from adapters import Adapter, SourceModel, create
from adapters.errors import OptionError
from adapters.state import flatten


def read_pipeline(text: str, seed: int = 0) -> Adapter:
    """Create the adapter that `SPEC[,PART.OPTION=VALUE]...` names.

    Raises:
        AdapterError: If the spec or an option is invalid.

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
    """Return a pipeline's text with options (`PART.OPTION` to value) added, or replaced if it has them already.

    Example:
        >>> with_options("batch+eta,eta.lr=1e-3", {"eta.lr": "1e-4", "eta.d_margin": "0.4"})
        'batch+eta,eta.lr=1e-4,eta.d_margin=0.4'
    """
    spec, *assignments = text.split(",")
    existing = dict(assignment.strip().split("=", 1) for assignment in assignments)
    return ",".join([spec, *(f"{name}={value}" for name, value in {**existing, **options}.items())])


def is_random(text: str, source: SourceModel) -> bool:
    """Return whether a pipeline is random: its initial state depends on the seed, or its steps draw random numbers.

    Raises:
        AdapterError: If the spec is invalid, or the model does not support it.
    """
    adapters = [read_pipeline(text, seed) for seed in (0, 1)]
    starts = [flatten(adapter.prepare(source).initial) for adapter in adapters]
    differ = (not torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items() if name != "seed")
    return any(differ) or adapters[0].draws


def _value(text: str) -> object:
    """Return the text's JSON value, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
