"""The distance of learned parameters from their initial values, plain and weighted by the Fisher information."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adapters.state import children

PARAMS = "params"
"""The state field in which every learner keeps the parameters of a network copy."""
LEAST_NORM = 1e-12


def learned(state: object) -> Mapping[str, Tensor]:
    """Return the learned parameters in a pipeline's state, by name; the first copy's if there are several.

    The mapping is empty if nothing learns by gradient.
    """
    return _params_in(getattr(state, "learner", {}))


def _params_in(value: object) -> Mapping[str, Tensor]:
    if isinstance(value, Tensor):
        return {}
    held = dict(children(value))
    found: Mapping[str, Tensor] = held.get(PARAMS, {})
    return found or next(filter(None, map(_params_in, held.values())), {})


def relative(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
    """Return |now - before| / |before| () over all parameters together; 0 if there are none.

    Example:
        >>> relative({"w": torch.tensor([3.0, 5.0])}, {"w": torch.tensor([3.0, 4.0])})
        tensor(0.2000)
    """
    names = list(before)
    if not names:
        return torch.zeros(())
    starts = [before[name] for name in names]
    changes = torch._foreach_sub([now[name] for name in names], starts)
    return _norm(changes) / _norm(starts).clamp_min(LEAST_NORM)


def fisher_weighted(now: Mapping[str, Tensor], before: Mapping[str, Tensor], fisher: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of F (now - before)^2 () over the parameters with a Fisher diagonal.

    This is twice the quadratic estimate of the increase of the loss on source data. EATA, eq. 5, without its weight.

    Example:
        >>> fisher_weighted({"w": torch.tensor([2.0])}, {"w": torch.tensor([0.0])}, {"w": torch.tensor([0.5])})
        tensor(2.)
    """
    names = [name for name in before if name in fisher]
    terms = [(fisher[name] * (now[name] - before[name]).square()).sum() for name in names]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(list(tensors)))))
    return norm
