"""Fisher information, which measures how much each parameter matters for the source data."""

from collections.abc import Iterable

import torch
from torch import Tensor

from adapters.base import Net
from adapters.values import Params, Tensors


def diagonal(net: Net, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the Fisher diagonal of the norm layers' weight and bias, as EATA computes it.

    It is the mean over batches of the squared gradient of the batch-mean cross-entropy with the model's own labels
    (EATA, eq. 9). Squares of batch means shrink with the batch size, so store that with the result.

    Args:
        net: The network in the configuration that adapts.
        batches: Source images (N, ...); labels are not needed.

    Raises:
        ValueError: If there is no batch.
    """
    total: dict[str, Tensor] = {}
    count = 0
    for x in batches:
        for name, gradient in _gradient(net, x).items():
            total[name] = total.get(name, torch.zeros_like(gradient)) + gradient.square()
        count += 1
    if not count:
        raise ValueError("the Fisher diagonal needs at least one batch of source images")
    return {name: square / count for name, square in total.items()}


def available(artefacts: Tensors, params: Params) -> dict[str, Tensor]:
    """Return the Fisher diagonal of those parameters, by name, that a model's source artefacts have it for."""
    return {name: artefacts[key] for name in params if (key := f"fisher.{name}") in artefacts}


def pull(params: Params, anchor: Params, fisher: Params, strength: float) -> dict[str, Tensor]:
    """Return the gradient of strength * sum_j F_j (theta_j - anchor_j)^2 (EATA, eq. 8).

    Example:
        >>> one = {"w": torch.ones(1)}
        >>> pull({"w": torch.tensor([3.0])}, one, one, 0.5)
        {'w': tensor([2.])}
    """
    return {name: 2 * strength * fisher[name] * (p - anchor[name]) for name, p in params.items()}


def _gradient(net: Net, x: Tensor) -> Params:
    def loss(params: Params) -> tuple[Tensor, tuple[Tensors, ...]]:
        logits = net.forward(params, net.initial_norm, x).logits
        return torch.nn.functional.cross_entropy(logits, logits.detach().argmax(1)), ()

    return net.gradient(loss, net.affine)[0]
