"""Accuracy without labels: estimates from confidences, calibrated on labelled source images.

Entropy minimisation raises confidence whether or not answers improve. The estimates are therefore valid only for the
source model's answers; for adapted answers they report the adapted model's own confidence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """Statistics of the source model's answers to labelled source images, () each.

    Attributes:
        accuracy: Share of right answers.
        confidence: Mean probability of the answered class.
        threshold: The share of answers above this confidence equals the accuracy, as closely as ties allow.
    """

    accuracy: Tensor
    confidence: Tensor
    threshold: Tensor


def calibrated(probabilities: Tensor, labels: Tensor) -> Calibration:
    """Compute the calibration from probabilities (N, C) and labels (N,), N at least 1.

    Example:
        >>> answers = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.45, 0.55]])
        >>> calibrated(answers, torch.tensor([0, 0, 1, 0])).threshold
        tensor(0.5500)
    """
    confidences, answers = probabilities.max(1)
    accuracy = (answers == labels).float().mean()
    thresholds = torch.cat([confidences.new_zeros(1), confidences.sort().values])
    above = (len(labels) - torch.searchsorted(thresholds, thresholds, right=True) + 1) / len(labels)
    return Calibration(accuracy, confidences.mean(), thresholds[(above - accuracy).abs().argmin()])


def average_confidence(probabilities: Tensor) -> Tensor:
    """Return the mean probability () of the answered class of probabilities (N, C).

    Reference: Hendrycks & Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples, ICLR 2017.
    """
    return probabilities.amax(1).mean()


def by_difference_of_confidences(confidence: Tensor, calibration: Calibration) -> Tensor:
    """Return the source's accuracy minus the drop in mean confidence (), clamped to [0, 1].

    Reference: Guillory et al., Predicting with Confidence on Unseen Distributions, ICCV 2021.

    Example:
        >>> calibration = Calibration(torch.tensor(0.75), torch.tensor(0.875), torch.tensor(0.6))
        >>> by_difference_of_confidences(torch.tensor(0.625), calibration)
        tensor(0.5000)
    """
    return (calibration.accuracy - (calibration.confidence - confidence)).clamp(0, 1)


def thresholded(probabilities: Tensor, calibration: Calibration) -> Tensor:
    """Return the share () of answers with probabilities (N, C) whose confidence exceeds the calibrated threshold.

    Reference: Garg et al., Leveraging Unlabeled Data to Predict Out-of-Distribution Performance, ICLR 2022 (ATC, with
    the maximum confidence as the score).

    Example:
        >>> calibration = Calibration(torch.tensor(0.75), torch.tensor(0.7), torch.tensor(0.6))
        >>> thresholded(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), calibration)
        tensor(0.5000)
    """
    return (probabilities.amax(1) > calibration.threshold).float().mean()
