"""Signals of the source model on the stream's images, from the requests that it looks at."""

from collections.abc import Mapping

from torch import Tensor

from adapters.monitors.accuracy import by_difference_of_confidences
from service.monitoring.monitor import Monitor, View
from service.monitoring.signal import Signal


class SourceModelMonitor(Monitor):
    """Reads the moving averages of the comparisons with the source model."""

    name = "source_model"
    signals = (
        Signal("source_estimated_accuracy", "Source, estimated accuracy", "share", "higher",
               "Accuracy of the source model on this stream's images, by ATC."),
        Signal("source_confidence_accuracy", "Source, accuracy by confidence", "share", "higher",
               "Accuracy of the source model on this stream's images, by DoC."),
        Signal("source_confidence", "Source, mean confidence", "share", "neither",
               "The source model's mean confidence on this stream's images.", charted=False),
        Signal("contradiction", "Contradiction", "share", "lower",
               "Recent share of images on which the stream contradicts a confident source model.", charted=False),
        Signal("source_distance", "Distance from the source", "variances", "lower",
               "Distance of the newest images' norm statistics from the source's, in the source model's own pass.",
               charted=False),
    )  # fmt: skip

    def read(self, state: None, view: View) -> Mapping[str, Tensor | float]:
        """Return the signals that are known: none before the first look."""
        signals: dict[str, Tensor | float] = {}
        averages, calibration = view.state, view.reference.calibration
        if float(averages.source_accuracy.weight) > 0:
            confidence = averages.source_confidence.mean
            signals["source_estimated_accuracy"] = averages.source_accuracy.mean
            signals["source_confidence"] = confidence
            if calibration is not None:
                signals["source_confidence_accuracy"] = by_difference_of_confidences(confidence, calibration)
            signals["contradiction"] = averages.suspicion.contradiction.mean
        if view.seeing.look is not None and float(view.seeing.look.distance) >= 0:
            signals["source_distance"] = view.seeing.look.distance
        return signals
