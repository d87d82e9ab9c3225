"""Functions of a request's answers in NumPy, which takes a third of PyTorch's time on a few hundred numbers."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
Flags: TypeAlias = npt.NDArray[np.bool_]
Labels: TypeAlias = npt.NDArray[np.int64]
NONE = -1
"""The label of a row that is not finite."""


def is_finite(values: Tensor) -> bool:
    """Return whether all values, of any shape, are finite."""
    return bool(np.isfinite(values.numpy()).all())


def are_sound(logits: Tensor, probabilities: Tensor) -> Flags:
    """Return which rows (N,) are valid answers: finite probabilities (N, C), and logits (N, C) without NaN or +inf.

    A logit of minus infinity is valid: the network rules a class out.
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
    """Return the share of equal labels in probabilities (N, C) of two models, over rows that are finite in both.

    None if there are no such rows.

    Example:
        >>> import torch
        >>> agreement(torch.tensor([[0.25, 0.75], [torch.nan, torch.nan]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
        0.0
    """
    first, second = labels(one), labels(other)
    both = (first != NONE) & (second != NONE)
    return float((first == second)[both].mean()) if both.any() else None


def sound_rows(probabilities: Tensor) -> Numbers:
    """Return the finite rows (n, C) of probabilities (N, C)."""
    rows: Numbers = probabilities.numpy()
    sound = np.isfinite(rows).all(1)
    return rows if sound.all() else rows[sound]


def entropies(probabilities: Numbers) -> Numbers:
    """Return each row's entropy (N,) in nats; probabilities are (N, C), zeros allowed. NaN for rows with NaN.

    Example:
        >>> entropies(np.array([[0.5, 0.5], [1.0, 0.0]]))
        array([0.69314718, 0.        ])
    """
    with np.errstate(invalid="ignore"):
        logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
        result: Numbers = 0.0 - (probabilities * logarithms).sum(1)
    return result
