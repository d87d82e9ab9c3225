"""The network of the bundle, and the factory that builds it."""

import torch
from torch import nn


def build(classes: int = 3) -> nn.Module:
    """Build the network: standardised images (N, 3, 16, 16) to logits (N, classes).

    Its batch-norm layers are what methods adapt. The last linear layer's input is the feature vector.
    """
    return nn.Sequential(
        _block(3, 16),
        _block(16, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def trained(images: torch.Tensor, labels: torch.Tensor, steps: int = 200, batch: int = 64) -> nn.Module:
    """Return a network trained on standardised images (N, 3, 16, 16) and labels (N,)."""
    torch.manual_seed(0)
    network = build(int(labels.max()) + 1).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,))
        loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return network.eval()
