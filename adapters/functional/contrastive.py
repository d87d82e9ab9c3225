"""Contrast between source prototypes, features and augmented features (RMT)."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

VIEWS = 3
"""Of one image: its nearest prototype, its features, its augmented features."""


def class_means(batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each class (C, d), 0 for those without images, and which have any (C,).

    Args:
        batches: Features (N, d) with their labels (N,).
        classes: How many classes.

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
    """Return the number (N,) of the prototype (C, d) most like each feature (N, d) by cosine, among those seen (C,).

    Example:
        >>> prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> nearest(prototypes, torch.tensor([True, True, False]), torch.tensor([[2.0, 1.9]]))
        tensor([0])
    """
    similarity = normalize(features, dim=1) @ normalize(prototypes, dim=1).mT
    return torch.where(seen, similarity, -math.inf).argmax(1)


def project(features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
    """Map features (N, d) through Linear-ReLU-Linear; weights by the names they have in an nn.Sequential."""
    hidden = torch.relu(linear(features, projector["0.weight"], projector["0.bias"]))
    return linear(hidden, projector["2.weight"], projector["2.bias"])


def random_projector(inputs: int, outputs: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a projector's weights as torch starts linear layers: uniform within 1 / sqrt(inputs).

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
    """Return the loss () that draws the three views of an image together and all other rows apart (RMT).

    Over 3N projected rows of unit length, the mean of -log of each positive's softmax share among the other rows; a
    row's positives are the other two views of the same image, by its place in the batch and not by class.

    Args:
        prototypes: (N, d) the prototype nearest to each image.
        features: (N, d) of the images.
        augmented: (N, d) of the images under augmentation.
        projector: As in `project`.
        temperature: Divides the cosines.

    Example:
        >>> projector = random_projector(2, 2, torch.Generator().manual_seed(0))
        >>> one = torch.ones(1, 2)
        >>> contrastive_loss(one, one, one, projector, 0.1)  # of two equal views each has a half
        tensor(0.6931)
    """
    rows = normalize(project(torch.cat([prototypes, features, augmented]), projector), dim=1)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logits = (rows @ rows.mT / temperature).masked_fill(itself, -math.inf)
    positive = torch.eye(len(features), dtype=torch.bool, device=rows.device).repeat(VIEWS, VIEWS) & ~itself
    log_share = torch.where(positive, logits.log_softmax(1), 0.0)
    return -log_share.sum(1).mean() / (VIEWS - 1)
