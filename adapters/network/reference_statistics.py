"""Reference statistics: the moments of each norm layer's inputs on the owner's source images.

A network's running statistics often describe other data: those of another training set under a head of one's own, or
those of augmented batches of a half-trained network. Normalizers that compare or mix a stream's statistics with the
source's need the statistics of the source images themselves. `Rebase` gives a layer these statistics without changing
the layer's function, so that answers under `source` stay the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.errors import UnfitModelError
from adapters.monitors.norm_distance import distance
from adapters.source import SourceModel, artefact
from adapters.values import Moments

REFERENCE = "reference"
"""The source artefact with `<layer>.mean` and `<layer>.var` (C,) for each norm layer."""
MEAN, VAR = ".mean", ".var"


@dataclass(frozen=True, slots=True)
class Rebase:
    """A norm layer's reference statistics, and the change of its affine parameters that keeps its function.

    For the layer's own statistics m, v and reference statistics mean, var:

        weight * (x - m) / sqrt(v + eps) + bias
        = (weight * scale) * (x - mean) / sqrt(var + eps) + (bias + weight * shift)

    Attributes:
        mean, var: (C,) the reference statistics.
        scale: (C,) sqrt((var + eps) / (v + eps)).
        shift: (C,) (mean - m) / sqrt(v + eps).
    """

    mean: Tensor
    var: Tensor
    scale: Tensor
    shift: Tensor

    def weight(self, weight: Tensor | None) -> Tensor:
        """Return the weight for inputs normalised by the reference; `weight` is (C,), (S, C) for S streams, or None."""
        return self.scale if weight is None else weight * self.scale

    def bias(self, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return the bias for inputs normalised by the reference; arguments are as for `weight`."""
        shift = self.shift if weight is None else weight * self.shift
        return shift if bias is None else bias + shift


def rebase(norm: _BatchNorm, reference: Moments) -> Rebase:
    """Return the change from a layer's running statistics to reference statistics, computed in float64."""
    own_mean, own_var = (each.double() for each in (norm.running_mean, norm.running_var))  # type: ignore[union-attr]  # see `references`
    mean, var = reference.mean.double(), reference.var.double()
    deviation = torch.sqrt(own_var + norm.eps)
    scale, shift = torch.sqrt(var + norm.eps) / deviation, (mean - own_mean) / deviation
    dtype = norm.running_mean.dtype  # type: ignore[union-attr]  # as above
    return Rebase(*(each.to(dtype) for each in (mean, var, scale, shift)))


def with_reference(source: SourceModel, measured: Mapping[str, Tensor]) -> SourceModel:
    """Return the model under other reference statistics: `<layer>.mean` and `<layer>.var` (C,), or none at all."""
    others = {name: tensor for name, tensor in source.artefacts.items() if name.partition(".")[0] != REFERENCE}
    return replace(source, artefacts={**others, **{f"{REFERENCE}.{name}": each for name, each in measured.items()}})


def references(source: SourceModel, network: nn.Module) -> dict[nn.Module, Moments]:
    """Return the reference statistics of the norm layers of `network`, a copy of the source network.

    The result is empty if the model has no such artefact, or its layers cannot be reached.

    Raises:
        UnfitModelError: If the artefact names a layer without running statistics, or has another number of channels.
    """
    stored = {} if source.opaque else stored_references(source.artefacts)
    modules = dict(network.named_modules())
    for name, reference in stored.items():
        _check(name, modules.get(name), reference)
    return {modules[name]: reference for name, reference in stored.items()}


def stored_references(artefacts: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Return the reference statistics in a model's source artefacts by layer name."""
    stored = artefact(artefacts, REFERENCE)
    names = [name.removesuffix(MEAN) for name in stored if name.endswith(MEAN)]
    return {name: Moments(stored[f"{name}{MEAN}"], stored[f"{name}{VAR}"]) for name in names}


def running_statistics_distance(source: SourceModel) -> float | None:
    """Return the norm-statistics distance of a network's running statistics from its reference; None without one.

    It is 0 if the network's running statistics are those of the source images; see `norm_distance.distance`.
    """
    pairs = [
        (Moments(norm.running_mean, norm.running_var), reference)
        for norm, reference in references(source, source.network).items()
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    ]
    if not pairs:
        return None
    running, reference = (
        Moments(torch.cat([each.mean for each in side]), torch.cat([each.var for each in side]))
        for side in zip(*pairs, strict=True)
    )
    return float(distance(running, reference))


def _check(name: str, module: nn.Module | None, reference: Moments) -> None:
    if not isinstance(module, _BatchNorm) or module.running_mean is None:
        raise UnfitModelError(f"the reference statistics name {name!r}, expected a batch-norm layer with statistics")
    channels = module.running_mean.shape
    if not reference.mean.shape == reference.var.shape == channels:
        shapes = f"{tuple(reference.mean.shape)} and {tuple(reference.var.shape)}"
        raise UnfitModelError(f"the reference statistics of {name!r} are {shapes}, expected {tuple(channels)} each")
    if bool((reference.var < 0).any()):
        raise UnfitModelError(f"the reference variance of {name!r} is {float(reference.var.min()):.3g}, expected >= 0")
