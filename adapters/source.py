"""The source model: the network as trained, and what a pipeline must know of it."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.errors import UnfitModelError

AFFINE_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class SourceModel:
    """A frozen classifier, never written to by the engine.

    Args:
        network: Maps standardised inputs (N, *input_shape) to logits (N, classes).
        input_shape: One input's shape, without the batch dimension.
        classes: How many logits.
        mean: Per-channel mean subtracted from inputs before the network.
        std: Per-channel standard deviation inputs are divided by after that.
        features: Name of the module whose input is the feature vector; "" means the last linear layer.
        artefacts: Source artefacts by name (Fisher, probe set, feature statistics).
        opaque: Why the inside of the network cannot be reached (an ONNX graph, say); "" if it can.
    """

    network: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    features: str = ""
    artefacts: Mapping[str, Tensor] = field(default_factory=dict)
    opaque: str = ""

    @property
    def has_batch_norm(self) -> bool:
        """Whether there is a batch-norm layer with running statistics."""
        return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in self.network.modules())

    @property
    def has_affine(self) -> bool:
        """Whether any norm layer (batch, layer, group) has a weight."""
        norms = (module for module in self.network.modules() if isinstance(module, AFFINE_NORMS))
        return any(module.weight is not None for module in norms)

    @property
    def features_module(self) -> str:
        """The name of the module whose input is the feature vector.

        Raises:
            UnfitModelError: If the named module does not exist, or none is named and there is no linear layer.
        """
        names: dict[str, nn.Module] = {name: module for name, module in self.network.named_modules() if name}
        if self.features:
            if self.features not in names:
                raise UnfitModelError(f"the model has no module {self.features!r} to take features from")
            return self.features
        linear: list[str] = [name for name, module in names.items() if isinstance(module, nn.Linear)]
        if not linear:
            raise UnfitModelError("the model has no linear layer; name the module whose input is the feature vector")
        return linear[-1]

    def shared_copy(self) -> nn.Module:
        """Return a copy of the module tree in eval mode, its frozen tensors sharing the source's memory."""
        memo: dict[int, object] = {}
        for parameter in self.network.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        for buffer in self.network.buffers():
            memo[id(buffer)] = buffer
        twin: nn.Module = copy.deepcopy(self.network, memo)
        return twin.eval()

    def checksum(self) -> str:
        """Return the sha256 over all weights, buffers and modes: equal before and after any adaptation."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, module in self.network.named_modules():
            digest.update(f"{name} {module.training}".encode())
        return digest.hexdigest()
