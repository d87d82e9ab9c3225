"""The source model: the trained network, and its description for a pipeline."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from adapters.errors import UnfitModelError
from adapters.output_kind import OutputKind

AFFINE_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
USUAL_BATCH = 64


@dataclass(frozen=True)
class SourceImages:
    """Source images as stored in a file; `calibrate` makes source artefacts from them.

    Attributes:
        images: (N, *input_shape) uint8, 0 to 255 over the model's value range.
        labels: (N,) int64, or (0,) if they are unknown.
        value_range: Least and greatest value of an input.
    """

    images: Tensor
    labels: Tensor
    value_range: tuple[float, float] = (0.0, 1.0)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield full batches of inputs (size, *input_shape) with labels: in stored order, or shuffled by a generator.

        A last batch that is not full is left out, unless it is the only one. Images without labels come with their row
        numbers instead.
        """
        count = len(self.images)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        for rows in torch.split(order, size):
            if len(rows) == size or count < size:
                yield as_inputs(self.images[rows], self.value_range), self.labels[rows] if len(self.labels) else rows


def as_inputs(stored: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Convert stored images (uint8) to inputs within a value range.

    Example:
        >>> as_inputs(torch.tensor([0, 255], dtype=torch.uint8), (-1.0, 1.0))
        tensor([-1.,  1.])
    """
    low, high = value_range
    return low + stored.float() / 255 * (high - low)


def as_stored(x: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Round inputs to uint8, the nearest of 256 steps over a value range; values outside the range are clamped.

    Example:
        >>> as_stored(torch.tensor([-2.0, 1.0]), (-1.0, 1.0))
        tensor([  0, 255], dtype=torch.uint8)
    """
    low, high = value_range
    return ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class SourceModel:
    """A frozen classifier, never written to by the engine.

    Args:
        network: Maps standardised inputs (N, *input_shape) to outputs (N, classes).
        input_shape: One input's shape, without the batch dimension.
        classes: The number of logits.
        mean: Per-channel mean, subtracted from the inputs.
        std: Per-channel standard deviation; the inputs minus the mean are divided by it.
        features: Name of the module whose input is the feature vector; "" means the last linear layer.
        artefacts: Source artefacts by name (Fisher, probe set, feature statistics): `<artefact>.<tensor>`, or
            `<artefact>@<normalizer>@<batch>.<tensor>` if they hold for one normalizer and batch size.
        value_range: Least and greatest value of an input, before mean and std.
        opaque: Why the network's layers cannot be reached (for example, it is an ONNX graph); "" if they can.
        output: The kind of the network's outputs: logits, probabilities or log-probabilities.
        stored: The dtype of the weights before they were widened to float32; None if they were not.
    """

    network: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    features: str = ""
    artefacts: Mapping[str, Tensor] = field(default_factory=dict)
    value_range: tuple[float, float] = (0.0, 1.0)
    opaque: str = ""
    output: OutputKind = "logits"
    stored: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's weights and inputs."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def standardized(self, x: Tensor) -> Tensor:
        """Return inputs (N, *input_shape) standardised by mean and std, in the dtype of x."""
        if not self.mean:
            return x
        shape = (-1, *[1] * (len(self.input_shape) - 1))
        mean, std = (torch.tensor(each, dtype=x.dtype).reshape(shape) for each in (self.mean, self.std))
        return (x - mean) / std

    @property
    def has_batch_norm(self) -> bool:
        """True if the network has a batch-norm layer with running statistics."""
        return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in self.network.modules())

    @property
    def has_affine(self) -> bool:
        """True if any norm layer (batch, layer, group) has a weight."""
        norms = (module for module in self.network.modules() if isinstance(module, AFFINE_NORMS))
        return any(module.weight is not None for module in norms)

    def has_artefact(self, artefact: str) -> bool:
        """Return whether the model has tensors of an artefact."""
        return any(name.partition(".")[0] == artefact for name in self.artefacts)

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

    def fitted_to(self, normalizer: str) -> "SourceModel":
        """Return the model with the artefacts that fit a normalizer, each under its plain name.

        An artefact made under this normalizer is preferred to one that names no normalizer. Among several batch sizes
        the nearest to 64 is chosen, the batch size of most papers.
        """
        ranked = sorted(self.artefacts.items(), key=lambda item: _rank(item[0]))
        fitting = {plain_name(name): tensor for name, tensor in ranked if _made_under(name) in ("", normalizer)}
        return replace(self, artefacts=fitting)

    @property
    def narrow(self) -> torch.dtype | None:
        """The dtype of weights that are stored in fewer than 32 bits; None if there are none."""
        if self.stored is not None:
            return self.stored
        tensors = (*self.network.parameters(), *self.network.buffers())
        return next((tensor.dtype for tensor in tensors if _is_narrow(tensor)), None)

    def widened(self) -> "SourceModel":
        """Return the model with narrower weights converted to float32, so that copies can share them."""
        if self.narrow is None or self.stored is not None:
            return self
        return replace(self, network=self.shared_copy(), stored=self.narrow)

    def shared_copy(self) -> nn.Module:
        """Return a copy of the module tree in eval mode, whose frozen tensors share the source's memory.

        Tensors in half precision become float32: optimizers and statistics need its range, and CPUs are faster with it.

        Raises:
            UnfitModelError: If the network cannot be copied, or a lazy layer has no weights yet.
        """
        memo: dict[int, object] = {}
        for name, parameter in self.network.named_parameters():
            if is_lazy(parameter):
                raise UnfitModelError(f"{name} has no values yet because its layer is lazy; run the network once first")
            memo[id(parameter)] = nn.Parameter(_widened(parameter.detach()), requires_grad=False)
        for buffer in self.network.buffers():
            memo[id(buffer)] = _widened(buffer)
        for tensor in _unregistered(self.network):
            memo.setdefault(id(tensor), _widened(tensor.detach().clone()))
        try:
            twin: nn.Module = copy.deepcopy(self.network, memo)
        except Exception as error:  # noqa: BLE001 - a module may define its own copying
            raise UnfitModelError(f"the network cannot be copied: {error}") from None
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


def _unregistered(network: nn.Module) -> Iterator[Tensor]:
    """Yield tensors that modules hold as plain attributes, such as a weight that a hook computes from others."""
    for module in network.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < torch.float32.itemsize


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if _is_narrow(tensor) else tensor


def artefact(artefacts: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return an artefact's tensors from all source artefacts, under their own names.

    Example:
        >>> list(artefact({"probe.images": torch.zeros(1), "entropy.mean": torch.zeros(())}, "probe"))
        ['images']
    """
    found = {whole.partition(".")[::2]: tensor for whole, tensor in artefacts.items()}
    return {own: tensor for (of, own), tensor in found.items() if of == name}


def artefact_file(artefact: str, normalizer: str, batch: int) -> str:
    """Return the name of an artefact that was made under a normalizer with a batch size.

    Example:
        >>> artefact_file("fisher", "batch", 64)
        'fisher@batch@64'
    """
    return f"{artefact}@{normalizer}@{batch}"


def plain_name(name: str) -> str:
    """Return an artefact's name without the normalizer and batch size that it was made under.

    Example:
        >>> plain_name("fisher@batch@64.bn1.weight"), plain_name("probe.images")
        ('fisher.bn1.weight', 'probe.images')
    """
    head, dot, tensor = name.partition(".")
    return f"{head.partition('@')[0]}{dot}{tensor}"


def _made_under(name: str) -> str:
    return name.partition(".")[0].partition("@")[2].partition("@")[0]


def _rank(name: str) -> tuple[int, float]:
    """Order artefacts so that the best fit comes last: plain names first, then batch sizes from far to near 64."""
    _, *qualifiers = name.partition(".")[0].split("@")  # the normalizer and the batch size, if any
    return (0, 0.0) if len(qualifiers) < 2 else (1, -abs(int(qualifiers[1]) - USUAL_BATCH))
