"""Small networks that the tests adapt."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adapters import Adapter, SourceImages, SourceModel
from adapters.network.reference_pass import measure_reference
from adapters.network.reference_statistics import with_reference
from adapters.registry import pipelines_of

REFERENCE = Path(__file__).parent / "reference" / "data"


def untrained_reference_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def reference_network() -> nn.Sequential:
    network = untrained_reference_network()
    network.load_state_dict(load_file(REFERENCE / "model.safetensors"))
    return network


def reference_source() -> SourceModel:
    return SourceModel(reference_network(), (3, 16, 16), 10)


def referenced_source() -> SourceModel:
    """The reference model with reference statistics of images that are somewhat darker than those that tests send."""
    source = reference_source()
    dark = torch.rand(32, *source.input_shape, generator=torch.Generator().manual_seed(2)) * 0.8
    return with_reference(source, measure_reference(source, [dark]))


def source_images(source: SourceModel, count: int = 32) -> SourceImages:
    """Made labelled images of a model's shape."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *source.input_shape), generator=generator, dtype=torch.uint8)
    return SourceImages(pixels, torch.arange(count) % source.classes)


MADE: dict[tuple[str, ...], dict[str, Tensor]] = {}
"""Artefacts that were made already, by model and pipeline: making them takes longer than most tests."""


def calibrated(make: Callable[[], SourceModel], adapter: Adapter) -> SourceModel:
    """A model with the source artefacts that an adapter's learners make."""
    source = make()
    artefacts = {}
    for pipeline in (each for each in pipelines_of(adapter) if each.learner.artefact):
        key = (make.__name__, str(pipeline.spec), repr(pipeline.options))
        if key not in MADE:
            made = pipeline.calibrate(source, source_images(source), 16, lambda _: None)
            MADE[key] = {f"{pipeline.learner.artefact}.{name}": tensor for name, tensor in made.items()}
        artefacts |= MADE[key]
    return replace(source, artefacts=artefacts)


def in_double_precision(source: SourceModel) -> SourceModel:
    artefacts = {name: x.double() if x.is_floating_point() else x for name, x in source.artefacts.items()}
    return replace(source, network=source.network.double(), artefacts=artefacts)


def bn1d_source() -> SourceModel:
    """Batch norm over maps and, after pooling, over vectors: layers of one position."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Flatten(),
        nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    network.train()
    for _ in range(20):
        network(torch.rand(16, 3, 16, 16))
    return SourceModel(network, (3, 16, 16), 5, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class TinyViT(nn.Module):
    """A small vision transformer: layer norm only."""

    def __init__(self, classes: int = 7, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.block(self.patches(x).flatten(2).mT)
        return self.head(self.norm(tokens.mean(1)))


def vit_source() -> SourceModel:
    torch.manual_seed(2)
    return SourceModel(TinyViT(), (3, 16, 16), 7)


def plain_source() -> SourceModel:
    """No norm layers at all."""
    torch.manual_seed(3)
    layers = OrderedDict(conv=nn.Conv2d(3, 4, 3), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    return SourceModel(nn.Sequential(OrderedDict(**layers, head=nn.Linear(4, 3))), (3, 16, 16), 3)


def last_stage_source() -> SourceModel:
    """Norm layers only where SAR leaves them as they are."""
    torch.manual_seed(4)
    layers = OrderedDict(layer4=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), pool=nn.AdaptiveAvgPool2d(1))
    return SourceModel(nn.Sequential(OrderedDict(**layers, flat=nn.Flatten(), head=nn.Linear(4, 3))), (3, 16, 16), 3)


def headless_source() -> SourceModel:
    """No linear layer: features must be named."""
    return SourceModel(nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4), nn.Flatten()), (3, 16, 16), 4)


class Tripwire(nn.Module):
    """The reference network, which fails after its first layers on images whose first value is exactly 1."""

    def __init__(self) -> None:
        super().__init__()
        self.network = untrained_reference_network()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.network[:3](x)
        if bool((x[:, 0, 0, 0] == 1).any()):
            raise RuntimeError("tripped")
        return self.network[3:](hidden)


class Contrast(nn.Module):
    """The reference network behind a contrast normalisation of its own, which is 0 / 0 on an image of one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.network = untrained_reference_network()

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))


class Overflow(Contrast):
    """The reference network, with logits of infinity on an image that is black."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return torch.where((x.amax((1, 2, 3)) == x.amin((1, 2, 3)))[:, None], logits.exp() / 0, logits)


class Masked(Contrast):
    """The reference network, with a first logit of minus infinity on an image that is black."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        black = x.amax((1, 2, 3)) == x.amin((1, 2, 3))
        return torch.cat([torch.where(black, -torch.inf, logits[:, 0])[:, None], logits[:, 1:]], 1)
