"""An estimate of a batch's class shares."""

from torch import Tensor


def smoothed_prior(probabilities: Tensor) -> Tensor:
    """Return the smoothed mean output (C,) of a batch of probabilities (N, C); it sums to one.

    It is (prior + s) / (1 + s C) with s = max(1/N, 1/C) / max(prior): the fewer the images, the closer to uniform
    (ROID).

    Example:
        >>> import torch
        >>> smoothed_prior(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([0.7500, 0.2500])
    """
    count, classes = probabilities.shape
    prior = probabilities.mean(0)
    smoothing = max(1 / count, 1 / classes) / prior.amax()
    return (prior + smoothing) / (1 + smoothing * classes)
