"""The answers of a request as NumPy sees them: on a few hundred numbers it takes a third of PyTorch's time."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
Flags: TypeAlias = npt.NDArray[np.bool_]
Labels: TypeAlias = npt.NDArray[np.int64]
NONE = -1
"""The label of a row that is not finite, which is no answer."""


def is_finite(values: Tensor) -> bool:
    """Tell whether values of any shape hold neither NaN nor infinity."""
    return bool(np.isfinite(values.numpy()).all())


def are_sound(logits: Tensor, probabilities: Tensor) -> Flags:
    """Tell which rows (N,) are an answer: finite probabilities (N, C), and logits (N, C) of which none is NaN or inf.

    A logit of minus infinity is sound: the network rules a class out.
    """
    sound: Flags = np.isfinite(probabilities.numpy()).all(1) & (logits.numpy() < np.inf).all(1)
    return sound


def labels(probabilities: Tensor) -> Labels:
    """Return the most probable class (N,) of probabilities (N, C); NONE for a row that is not finite.

    Example:
        >>> import torch
        >>> labels(torch.tensor([[0.25, 0.75], [torch.nan, torch.nan]]))
        array([ 1, -1])
    """
    rows = probabilities.numpy()
    chosen: Labels = np.where(np.isfinite(rows.max(1)), rows.argmax(1), NONE)
    return chosen


def agreement(one: Tensor, other: Tensor) -> float | None:
    """Return the share of equal labels of probabilities (N, C) each, over rows where both are finite; None for no row.

    Example:
        >>> import torch
        >>> agreement(torch.tensor([[0.25, 0.75], [torch.nan, torch.nan]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
        0.0
    """
    first, second = labels(one), labels(other)
    both = (first != NONE) & (second != NONE)
    return float((first == second)[both].mean()) if both.any() else None


def sound_rows(probabilities: Tensor) -> Numbers:
    """Return the rows (n, C) of probabilities (N, C) that are finite."""
    rows: Numbers = probabilities.numpy()
    sound = np.isfinite(rows).all(1)
    return rows if sound.all() else rows[sound]


def entropies(probabilities: Numbers) -> Numbers:
    """Return each row's entropy (N,) in nats; probabilities are (N, C), zeros allowed; NaN where a row is not finite.

    Example:
        >>> entropies(np.array([[0.5, 0.5], [1.0, 0.0]]))
        array([0.69314718, 0.        ])
    """
    with np.errstate(invalid="ignore"):
        logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
        found: Numbers = 0.0 - (probabilities * logarithms).sum(1)
    return found
