"""EcoTTA's meta networks, and how they are attached to a network."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from adapters.errors import UnfitModelError
from adapters.learning.checkpointing import Recomputed


@dataclass
class Ledger:
    """Results of one distilling pass: L1 distances () by part, and their gradients by parameter."""

    distances: dict[str, Tensor] = field(default_factory=dict)
    grads: dict[str, Tensor] = field(default_factory=dict)


class MetaPart(nn.Module):
    """A frozen part with its meta network: norm(part(x)) + relu(norm(conv(x)))."""

    def __init__(self, frozen: nn.Module, inputs: int, outputs: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        self.frozen = frozen
        self.norm = nn.BatchNorm2d(outputs)
        # skip_init: the constructor would draw from the global generator.
        self.conv = skip_init(nn.Conv2d, inputs, outputs, 3, stride=stride, padding=1, bias=False)  # type: ignore[no-untyped-call]
        nn.init.kaiming_uniform_(self.conv.weight, a=math.sqrt(5), generator=generator)
        self.conv_norm = nn.BatchNorm2d(outputs)
        self.eval().requires_grad_(requires_grad=False)
        self.path = ""
        self.ledger: Ledger | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted output of the part for x (N, inputs, H, W)."""
        if self.ledger is None or not self._learned():
            return self._adapted(x, self.frozen(x))
        with torch.no_grad():
            plain = self.frozen(x)
        return self._distil(self.ledger, x.detach(), plain)

    def _learned(self) -> dict[str, nn.Parameter]:
        """Return the parameters that need a gradient in this pass."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def _adapted(self, x: Tensor, plain: Tensor) -> Tensor:
        y: Tensor = self.norm(plain) + torch.relu(self.conv_norm(self.conv(x)))
        return y

    def _distil(self, ledger: Ledger, x: Tensor, plain: Tensor) -> Tensor:
        """Record the L1 distance of the adapted from the frozen output and its gradient; return the output detached."""
        learned = self._learned()
        with torch.enable_grad():
            y = self._adapted(x, plain)
            distance = (y - plain).abs().mean()
            grads = torch.autograd.grad(distance, list(learned.values()))
        ledger.distances[self.path] = distance.detach()
        ledger.grads.update({f"{self.path}.{name}": g for name, g in zip(learned, grads, strict=True)})
        return y.detach()


@contextmanager
def distilling(parts: Mapping[str, MetaPart]) -> Iterator[Ledger]:
    """Within the block, each pass through the parts, which are given by path, records distances and gradients."""
    ledger = Ledger()
    for path, part in parts.items():
        part.path, part.ledger = path, ledger
    try:
        yield ledger
    finally:
        for part in parts.values():
            part.ledger = None


def attach(network: nn.Module, input_shape: tuple[int, ...], parts: str, split: int) -> None:
    """Wrap each part of a network with a meta network.

    Args:
        network: Changed in place: a part's first module becomes the whole part, its other modules become identities.
        input_shape: One input's shape.
        parts: Module names, `,` between parts and `+` within one; "" finds the blocks of ResNet-like models.
        split: Number of parts to divide the found stages into; 0 for one part per stage.

    Raises:
        UnfitModelError: If no parts can be found, a named module is missing, or a part does not map images to images.
    """
    chosen = _named(network, parts) if parts else divided(stages(network), split)
    generator = torch.Generator().manual_seed(0)
    for names, shape in zip(chosen, _shapes(network, chosen, input_shape), strict=True):
        modules = [network.get_submodule(name) for name in names]
        frozen = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
        part = MetaPart(frozen, shape.inputs, shape.outputs, shape.stride, generator).to(shape.dtype)
        for name, module in zip(names, [Recomputed(part), *(nn.Identity() for _ in modules[1:])], strict=True):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module)


def stages(network: nn.Module) -> list[list[str]]:
    """Return the block names of each stage.

    A stage is an `nn.Sequential` among the network's direct children, all of whose children have submodules.

    Raises:
        UnfitModelError: If there are none.
    """
    found = [
        [f"{name}.{child}" for child, _ in stage.named_children()]
        for name, stage in network.named_children()
        if isinstance(stage, nn.Sequential) and all(len(list(block.modules())) > 1 for block in stage)
    ]
    if not found:
        raise UnfitModelError(
            "ecotta finds no stages of blocks in this model; name its parts, for example "
            "ecotta.parts=features.0,features.1"
        )
    return found


def divided(blocks: list[list[str]], parts: int) -> list[list[str]]:
    """Halve the earliest of the largest stages until there are `parts` parts, so that early parts are smaller.

    Raises:
        UnfitModelError: If there are more stages than `parts`, or fewer blocks.

    Example:
        >>> [len(part) for part in divided([["b"] * 6, ["b"] * 6, ["b"] * 6], 5)]
        [3, 3, 3, 3, 6]
    """
    if parts and not len(blocks) <= parts <= sum(map(len, blocks)):
        raise UnfitModelError(
            f"ecotta.split is {parts}, "
            f"expected {len(blocks)} (one per stage) to {sum(map(len, blocks))} (one per block)"
        )
    while len(blocks) < parts:
        largest = max(range(len(blocks)), key=lambda index: len(blocks[index]))
        half = math.ceil(len(blocks[largest]) / 2)
        cut = [blocks[largest][:half], blocks[largest][half:]]
        blocks = [*blocks[:largest], *cut, *blocks[largest + 1 :]]
    return blocks


@dataclass(frozen=True)
class Shape:
    """A part's input and output channels, its stride (the ratio of image sides before and after), and its dtype."""

    inputs: int
    outputs: int
    stride: int
    dtype: torch.dtype


def _named(network: nn.Module, parts: str) -> list[list[str]]:
    chosen = [[name.strip() for name in part.split("+")] for part in parts.split(",")]
    names = {name for name, _ in network.named_modules() if name}
    missing = [name for part in chosen for name in part if name not in names]
    if missing:
        raise UnfitModelError(f"ecotta.parts names {missing[0]!r}, which the model does not have")
    return chosen


@torch.no_grad()
def _shapes(network: nn.Module, parts: list[list[str]], input_shape: tuple[int, ...]) -> list[Shape]:
    """Run the network once and read the shapes of each part's input and output."""
    inputs: dict[int, torch.Size] = {}
    outputs: dict[int, torch.Size] = {}
    hooks = []
    for index, names in enumerate(parts):
        first, last = network.get_submodule(names[0]), network.get_submodule(names[-1])
        hooks += [
            first.register_forward_pre_hook(lambda _, args, index=index: inputs.update({index: args[0].shape})),
            last.register_forward_hook(lambda _, __, output, index=index: outputs.update({index: output.shape})),
        ]
    weight = next(network.parameters())
    try:
        network(torch.zeros(2, *input_shape, dtype=weight.dtype))
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise UnfitModelError(f"the network fails on the two blank images that ecotta tries it on: {error}") from None
    finally:
        for hook in hooks:
            hook.remove()
    return [_shape(names, inputs.get(index), outputs.get(index), weight.dtype) for index, names in enumerate(parts)]


def _shape(names: list[str], before: torch.Size | None, after: torch.Size | None, dtype: torch.dtype) -> Shape:
    if before is None or after is None or len(before) != 4 or len(after) != 4:
        raise UnfitModelError(
            f"ecotta's part {'+'.join(names)} must map images to images, but maps {before} to {after}"
        )
    stride = math.ceil(before[2] / after[2])
    shrunk = tuple(math.ceil(side / stride) for side in before[2:])
    if shrunk != tuple(after[2:]):
        raise UnfitModelError(
            f"ecotta's part {'+'.join(names)} maps {tuple(before[2:])} to {tuple(after[2:])}, "
            f"expected an integer stride such as {stride}, which gives {shrunk}"
        )
    return Shape(before[1], after[1], stride, dtype)
