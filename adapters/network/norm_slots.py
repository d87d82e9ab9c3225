"""The batch-norm layers of a prepared network, whose normalisation the pipeline replaces."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from adapters.base import NormLayer
from adapters.errors import UnfitModelError
from adapters.functional.moments import source_normalize
from adapters.network.norm_by_stream import StreamLayer
from adapters.network.reference_statistics import rebase
from adapters.values import Moments

PLAIN = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
"""The `forward` methods of layers that normalise and do nothing else."""
NONE: Mapping[nn.Module, Moments] = MappingProxyType({})
Normalize: TypeAlias = Callable[[NormLayer, Tensor], Tensor]
"""Normalises (N, C, ...) by a layer's affine parameters and the statistics of the running pass."""


class NormSlot:
    """Replaces the normalisation of one batch-norm layer with `normalize`; the layer itself stays in the network.

    Code that reads the layer's attributes or checks its type still works. A subclass with its own `forward`, such as a
    norm with an activation, keeps it: only the batch norm inside is replaced.

    With reference statistics, the slot shows them and the affine parameters that keep the layer's function; learned
    parameters stay those of the layer.

    Attributes:
        name: The layer's path in the prepared network.
        added: True if a learner has added the layer, so that it has no meaningful source statistics.
        spatial: True if inputs are (N, C, H, W), so that a single image has its own statistics.
        own_code: True if the layer's class has its own `forward`.
        bypassed: True if code other than the layer's batch norm uses its statistics; a pipeline cannot replace these.
        normalize: The function that replaces the normalisation; at first by source statistics.
        eps, momentum: As in the source layer.
    """

    def __init__(self, name: str, norm: _BatchNorm, *, added: bool = False, reference: Moments | None = None) -> None:
        _check(name, norm)
        self.name = name
        self.added = added
        self.kind = type(norm).__name__
        self.spatial = not isinstance(norm, nn.BatchNorm1d)
        self.own_code = "forward" in vars(norm) or type(norm).forward not in PLAIN
        self.bypassed = False
        self.eps = norm.eps
        self.momentum = 0.1 if norm.momentum is None else norm.momentum
        self.normalize: Normalize = source_normalize
        self._norm = norm
        self._rebase = None if reference is None else rebase(norm, reference)
        self._forward: Callable[..., Any] = norm.forward
        norm.forward = self._around if self.own_code else self._instead  # type: ignore[method-assign]  # a copy's layer

    @property
    def weight(self) -> Tensor | None:
        """(C,), or None; under `functional_call` from the learned one."""
        return self.rebased_weight(self._norm.weight)

    @property
    def bias(self) -> Tensor | None:
        """(C,), or None; under `functional_call` from the learned ones."""
        return self.rebased_bias(self._norm.weight, self._norm.bias)

    @property
    def mean(self) -> Tensor:
        """The source mean (C,)."""
        return self.own_mean if self._rebase is None else self._rebase.mean

    @property
    def var(self) -> Tensor:
        """The source variance (C,)."""
        return self.own_var if self._rebase is None else self._rebase.var

    @property
    def own_mean(self) -> Tensor:
        """The layer's running mean (C,)."""
        mean: Tensor = self._norm.running_mean  # type: ignore[assignment]  # not None: see `_check`
        return mean

    @property
    def own_var(self) -> Tensor:
        """The layer's running variance (C,)."""
        var: Tensor = self._norm.running_var  # type: ignore[assignment]  # as above
        return var

    def rebased_weight(self, weight: Tensor | None) -> Tensor | None:
        """Return the weight (C,) that belongs to `mean` and `var`, from the layer's own or learned one."""
        if self._rebase is None:
            return weight
        return self._rebase.weight(weight)

    def rebased_bias(self, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
        """Return the bias (C,) that belongs to `mean` and `var`, from the layer's own or learned parameters."""
        if self._rebase is None:
            return bias
        return self._rebase.bias(weight, bias)

    def _instead(self, input: Tensor) -> Tensor:  # noqa: A002 - as PyTorch's layers call it
        return self.normalize(self, input)

    def _around(self, *args: Any, **named: Any) -> Any:
        """Run the layer's own code, with its batch norm replaced."""
        with _Replacing(self):
            return self._forward(*args, **named)


class _Replacing(TorchFunctionMode):
    """Within the block, the slot handles calls of PyTorch's batch norm with its statistics."""

    def __init__(self, slot: NormSlot) -> None:
        super().__init__()
        self._slot = slot

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = kwargs or {}
        names = ARGUMENTS.get(func)
        if names is None:
            return func(*args, **keywords)
        call = {**DEFAULTS, **dict(zip(names, args, strict=False)), **keywords}
        slot, mean = self._slot, call["running_mean"]
        if call["training"] and (mean is None or mean is slot.own_mean):
            raise UnfitModelError(_by_batch(slot.name, slot.kind))
        if mean is not slot.own_mean or call["running_var"] is not slot.own_var:
            return func(*args, **keywords)
        weight, bias = slot.rebased_weight(call["weight"]), slot.rebased_bias(call["weight"], call["bias"])
        layer = StreamLayer(slot.name, slot.spatial, slot.mean, slot.var, weight, bias, call["eps"], slot.momentum)
        return slot.normalize(layer, call["input"])


DEFAULTS: Mapping[str, Any] = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
ARGUMENTS: Mapping[Callable[..., Any], tuple[str, ...]] = {
    functional.batch_norm: (
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"
    ),
    torch.batch_norm: (
        "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled"
    ),
}  # fmt: skip
"""The positional parameters of PyTorch's batch-norm functions."""


def slots_of(
    network: nn.Module, added: Sequence[nn.Module] = (), references: Mapping[nn.Module, Moments] = NONE
) -> dict[str, NormSlot]:
    """Make a slot for every batch-norm layer of a prepared network, by name; a shared layer gets one slot.

    Args:
        network: The prepared network.
        added: The modules that a learner has added.
        references: Reference statistics by layer.

    Raises:
        UnfitModelError: If a layer has no source statistics, or does not use them in eval mode.
    """
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    return {
        name: NormSlot(name, norm, added=any(norm is each for each in added), reference=references.get(norm))
        for name, norm in norms
    }


def _check(name: str, norm: _BatchNorm) -> None:
    kind = type(norm).__name__
    if norm.running_mean is None or norm.running_var is None:
        raise UnfitModelError(
            f"{name} ({kind}) keeps no running statistics, so the source statistics are unknown; "
            "train it with track_running_stats=True"
        )
    if norm.training:
        raise UnfitModelError(_by_batch(name, kind))


def _by_batch(name: str, kind: str) -> str:
    return (
        f"{name} ({kind}) normalises by the statistics of each batch even in eval mode, so that answers depend on "
        "the other images of a request; let it use its running statistics in eval mode"
    )
