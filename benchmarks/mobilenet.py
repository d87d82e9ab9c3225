"""An untrained MobileNet V2 at 224 x 224, to time steps, whose cost does not depend on the weights' values."""

import torch
from torch import Tensor, nn

from adapters import SourceImages, SourceModel
from benchmarks.resnet20 import MEAN, STD

CLASSES = 1000
SIDE = 224
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage (table 2 of the paper)."""


class Block(nn.Module):
    """An inverted residual: widen, convolve each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        widened = [] if expansion == 1 else [*_normed(inputs, wide, 1), nn.ReLU6()]
        depthwise = [*_normed(wide, wide, 3, stride=stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*widened, *depthwise, *_normed(wide, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """MobileNet V2: 3.5 M parameters; maps standardised images (N, 3, 224, 224) to logits (N, 1000).

    Reference: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_normed(3, 32, 3, stride=2), nn.ReLU6()]
        inputs = 32
        for expansion, outputs, blocks, first in STAGES:
            for number in range(blocks):
                layers.append(Block(inputs, outputs, expansion, 1 if number else first))
                inputs = outputs
        self.body = nn.Sequential(*layers, *_normed(inputs, 1280, 1), nn.ReLU6())
        self.linear = nn.Linear(1280, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 1000) of x (N, 3, 224, 224)."""
        logits: Tensor = self.linear(self.body(x).mean((2, 3)))
        return logits


def mobilenet_source() -> SourceModel:
    """Return the network with running statistics of a random batch, so that activations have usual sizes."""
    torch.manual_seed(0)
    network = MobileNet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(8, 3, SIDE, SIDE))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return SourceModel(network.eval(), (3, SIDE, SIDE), CLASSES, mean=MEAN, std=STD, features="linear")


def made_images(count: int) -> SourceImages:
    """Return random images with random labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return SourceImages(pixels, torch.randint(0, CLASSES, (count,), generator=generator))


def _normed(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]
