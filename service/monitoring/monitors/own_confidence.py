"""Signals of the stream's confidence, and of the accuracy estimated from it."""

from collections.abc import Mapping

from torch import Tensor

from adapters.monitors.accuracy import by_difference_of_confidences, thresholded
from service.monitoring.monitor import Monitor, View
from service.monitoring.signal import Signal


class OwnConfidence(Monitor):
    """Estimates accuracy from the confidence of the stream's own answers (Garg et al. 2022; Guillory et al. 2021)."""

    name = "own_confidence"
    signals = (
        Signal("confidence", "Mean confidence", "share", "neither", "Mean probability of the answered class."),
        Signal("estimated_accuracy", "Estimated accuracy", "share", "higher",
               "Accuracy of the answers by average thresholded confidence (ATC). It is the adapted model's own "
               "opinion: learning by entropy raises it."),
        Signal("confidence_accuracy", "Accuracy by confidence", "share", "higher",
               "Accuracy of the answers by the difference of confidences (DoC)."),
    )  # fmt: skip

    def read(self, state: None, view: View) -> Mapping[str, Tensor | float]:
        """Return the mean confidence, and with a probe set also both estimates of accuracy."""
        calibration = view.reference.calibration
        if calibration is None:
            return {"confidence": view.confidence}
        return {
            "confidence": view.confidence,
            "estimated_accuracy": thresholded(view.rows, calibration),
            "confidence_accuracy": by_difference_of_confidences(view.confidence, calibration),
        }
