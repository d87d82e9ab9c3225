"""The contrastive loss between source prototypes, features and augmented features (RMT)."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

VIEWS = 3
"""Rows per image: its nearest prototype, its features and its augmented features."""


def class_means(batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> tuple[Tensor, Tensor]:
    """Return each class's mean feature (C, d), 0 for classes without images, and which classes have images (C,).

    Args:
        batches: Features (N, d) with their labels (N,).
        classes: The number of classes.

    Example:
        >>> class_means([(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]))], 2)
        (tensor([[0.],
                [2.]]), tensor([False,  True]))
    """
    features, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    members = torch.nn.functional.one_hot(labels, classes).to(features.dtype)
    count = members.sum(0)
    return members.mT @ features / count.clamp_min(1)[:, None], count > 0


def nearest(prototypes: Tensor, seen: Tensor, features: Tensor) -> Tensor:
    """Return the index (N,) of the prototype (C, d) with the largest cosine to each feature (N, d).

    Only prototypes marked in `seen` (C,) are considered.

    Example:
        >>> prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> nearest(prototypes, torch.tensor([True, True, False]), torch.tensor([[2.0, 1.9]]))
        tensor([0])
    """
    similarity = normalize(features, dim=1) @ normalize(prototypes, dim=1).mT
    return torch.where(seen, similarity, -math.inf).argmax(1)


def project(features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
    """Map features (N, d) through Linear-ReLU-Linear; weights have the names of an nn.Sequential."""
    hidden = torch.relu(linear(features, projector["0.weight"], projector["0.bias"]))
    return linear(hidden, projector["2.weight"], projector["2.bias"])


def random_projector(inputs: int, outputs: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a projector's weights like torch's initial linear layers: uniform within 1 / sqrt(inputs).

    Example:
        >>> random_projector(16, 4, torch.Generator())["0.weight"].abs().max() <= 0.25
        tensor(True)
    """
    shapes = {"0.weight": (outputs, inputs), "0.bias": (outputs,), "2.weight": (outputs, outputs), "2.bias": (outputs,)}
    bounds = {"0": 1 / math.sqrt(inputs), "2": 1 / math.sqrt(outputs)}
    return {
        name: (2 * torch.rand(shape, generator=generator) - 1) * bounds[name.partition(".")[0]]
        for name, shape in shapes.items()
    }


def contrastive_loss(
    prototypes: Tensor, features: Tensor, augmented: Tensor, projector: Mapping[str, Tensor], temperature: float
) -> Tensor:
    """Return the loss () that moves the three views of an image together and all other rows apart (RMT).

    It is the mean of -log of each positive's softmax share among the other rows, over 3N projected rows of unit length.
    A row's positives are the other two views of the same image; other images of its class are not positives.

    Args:
        prototypes: (N, d) nearest prototype of each image.
        features: (N, d) of the images.
        augmented: (N, d) of the images under augmentation.
        projector: As in `project`.
        temperature: Divides the cosines.

    Example:
        >>> projector = random_projector(2, 2, torch.Generator().manual_seed(0))
        >>> one = torch.ones(1, 2)
        >>> contrastive_loss(one, one, one, projector, 0.1)  # two equal views get a share of a half each
        tensor(0.6931)
    """
    rows = normalize(project(torch.cat([prototypes, features, augmented]), projector), dim=1)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logits = (rows @ rows.mT / temperature).masked_fill(itself, -math.inf)
    positive = torch.eye(len(features), dtype=torch.bool, device=rows.device).repeat(VIEWS, VIEWS) & ~itself
    log_share = torch.where(positive, logits.log_softmax(1), 0.0)
    return -log_share.sum(1).mean() / (VIEWS - 1)
