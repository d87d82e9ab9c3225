"""The demo's source model: a small CIFAR-style residual network with batch normalization."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

WIDTHS = (16, 32, 64)
BLOCKS = (1, 1, 2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, after the CIFAR networks of "Deep Residual Learning" (CVPR 2016)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        # No in-place ReLU anywhere: adapters differentiate through this network under torch.func.
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """A stem, three layers of basic blocks, global average pooling and one linear classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _layer(WIDTHS[0], WIDTHS[0], BLOCKS[0], stride=1)
        self.layer2 = _layer(WIDTHS[0], WIDTHS[1], BLOCKS[1], stride=2)
        self.layer3 = _layer(WIDTHS[1], WIDTHS[2], BLOCKS[2], stride=2)
        self.classifier = nn.Linear(WIDTHS[2], classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the (N, 64) feature vectors that the classifier reads, for images (N, 1, 28, 28)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return cast(torch.Tensor, out.mean(dim=(2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) for normalized images (N, 1, 28, 28)."""
        return cast(torch.Tensor, self.classifier(self.features(x)))


def build(classes: int = 10) -> nn.Module:
    """Build the network with fresh weights, drawn from PyTorch's global generator.

    Args:
        classes: number of logits.

    Returns:
        A module that maps normalized images (N, 1, 28, 28) to logits (N, classes); its `classifier` reads (N, 64).
    """
    network = ResidualNetwork(classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _layer(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    rest = [BasicBlock(channels_out, channels_out, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
