"""The kinds of network outputs (logits, probabilities, log-probabilities), and their conversion to logits."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

OutputKind: TypeAlias = Literal["logits", "probabilities", "log_probabilities"]
LEAST = 1e-30
"""Smallest probability before taking its logarithm, so that the logarithm and its gradient stay finite."""
ROUNDING = 1e-2
"""Tolerance on a row's sum of 1: half precision may be this far off for a thousand classes."""
MULTI_LABEL = "a multi-label (sigmoid) model, which is not supported: each image must have exactly one class"


def as_logits(kind: OutputKind, outputs: Tensor) -> Tensor:
    """Return logits (N, C) whose softmax gives the probabilities of the outputs (N, C).

    Example:
        >>> as_logits("probabilities", torch.tensor([[0.25, 0.75]])).softmax(1)
        tensor([[0.2500, 0.7500]])
    """
    return outputs.clamp_min(LEAST).log() if kind == "probabilities" else outputs


def fault(kind: OutputKind, outputs: Tensor) -> str:
    """Return why outputs (N, C) cannot be of the declared kind; "" if they can. Rows that are not finite are ignored.

    Example:
        >>> fault("logits", torch.tensor([[0.2, 0.8]])).partition(":")[0]
        'its outputs are probabilities'
        >>> fault("logits", torch.tensor([[-3.0, 0.8]]))
        ''
    """
    rows = outputs.double()[torch.isfinite(outputs).all(1)]
    return FAULTS[kind](rows) if len(rows) else ""


def within_unit(outputs: Tensor) -> bool:
    """Return whether all finite rows of outputs (N, C) lie in [0, 1], up to rounding."""
    rows = outputs[torch.isfinite(outputs).all(1)]
    return bool(((rows >= -ROUNDING) & (rows <= 1 + ROUNDING)).all())


def _fault_of_logits(rows: Tensor) -> str:
    if not within_unit(rows):
        return ""
    if _sum_to_one(rows):
        return 'its outputs are probabilities: rows lie in [0, 1] and sum to 1; write output = "probabilities"'
    return f"its outputs lie in [0, 1] and rows do not sum to 1 ({_sums(rows)}): it is {MULTI_LABEL}"


def _fault_of_probabilities(rows: Tensor) -> str:
    if not within_unit(rows):
        low, high = float(rows.min()), float(rows.max())
        return (
            f'it declares output = "probabilities", but answers from {low:.3g} to {high:.3g}; write output = "logits"'
        )
    if _sum_to_one(rows):
        return ""
    return f'it declares output = "probabilities", but rows do not sum to 1 ({_sums(rows)}): it is {MULTI_LABEL}'


def _fault_of_log_probabilities(rows: Tensor) -> str:
    if bool((rows <= ROUNDING).all()) and _sum_to_one(rows.exp()):
        return ""
    return (
        f'it declares output = "log_probabilities", but the exponentials of a row do not sum to 1 '
        f'({_sums(rows.exp())}); write output = "logits"'
    )


def _sum_to_one(rows: Tensor) -> bool:
    return bool(((rows.sum(1) - 1).abs() <= ROUNDING).all())


def _sums(rows: Tensor) -> str:
    return f"the first to {float(rows[0].sum()):.3g}"


FAULTS: Mapping[OutputKind, Callable[[Tensor], str]] = {
    "logits": _fault_of_logits,
    "probabilities": _fault_of_probabilities,
    "log_probabilities": _fault_of_log_probabilities,
}
