"""The CIFAR ResNet-20, with the parameter names of the public weights that the benchmarks load."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from adapters import Adapter, SourceImages, SourceModel
from adapters.registry import pipelines_of
from adapters.source import artefact_file

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CLASSES = 10
WIDTHS = (16, 32, 64)
BLOCKS = 3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Return the shortcut by option A of the paper: every second pixel, with zero channels on both sides."""
        added = self.conv1.out_channels - self.conv1.in_channels
        return x if added == 0 else pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added // 2, added // 2))


class ResNet20(nn.Module):
    """CIFAR ResNet-20: 0.27 M parameters; maps standardised images (N, 3, 32, 32) to logits (N, 10).

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (section 4.2).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0])
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1])
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2])
        self.linear = nn.Linear(WIDTHS[2], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 10) of x (N, 3, 32, 32)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: Tensor = self.linear(y.mean((2, 3)))
        return logits


def load_source_model(weights: Path) -> SourceModel:
    """Return the source model with the public weights (safetensors).

    The public file lacks batch counters, which eval mode never reads. They keep their initial values.
    """
    network = ResNet20()
    tensors = load_file(weights)
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **tensors})
    return SourceModel(network.eval(), (3, 32, 32), CLASSES, mean=MEAN, std=STD, features="linear")


def read_source_images(folder: Path) -> SourceImages | None:
    """Return the training images of a folder, (N, 32, 32, 3) uint8, with their labels; None if it has none."""
    if not (folder / "source_images.npy").exists():
        return None
    pixels = torch.from_numpy(np.load(folder / "source_images.npy")).permute(0, 3, 1, 2).contiguous()
    return SourceImages(pixels, torch.from_numpy(np.load(folder / "source_labels.npy").astype(np.int64)))


def with_artefacts(source: SourceModel, adapter: Adapter, images: SourceImages, batch: int = 64) -> SourceModel:
    """Return the model with the source artefacts that an adapter's learners need, made from source images."""
    artefacts = dict(source.artefacts)
    for pipeline in pipelines_of(adapter):
        if pipeline.learner.artefact:
            tensors = pipeline.calibrate(source, images, batch, lambda _: None)
            file = artefact_file(pipeline.learner.artefact, pipeline.normalizer.name, batch)
            artefacts |= {f"{file}.{name}": tensor for name, tensor in tensors.items()}
    return replace(source, artefacts=artefacts)


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs), *(BasicBlock(outputs, outputs) for _ in range(BLOCKS - 1)))


def labelled_images(data: Path, corruption: str, count: int) -> tuple[Tensor, Tensor]:
    """Return at most `count` first corrupted images (N, 3, 32, 32) in [0, 1], with their labels (N,)."""
    stored = torch.from_numpy(np.load(data / f"{corruption}.npy")[:count]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(np.load(data / "labels.npy")[:count]).long()
    return (stored / 255).contiguous(), labels
