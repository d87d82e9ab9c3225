"""Signals of the answered classes, compared with the classes of the source data."""

from collections.abc import Mapping

from torch import Tensor

from adapters.monitors import class_balance
from service.monitoring.monitor import Monitor, View
from service.monitoring.signal import Signal


class AnsweredClasses(Monitor):
    """Computes its signals from the decayed counts of answered classes, which the guards use too."""

    name = "answered_classes"
    signals = (
        Signal("marginal_entropy", "Class entropy", "nats", "neither",
               "Entropy of the mean answer over about 256 images: ln(C) if all C classes are answered alike.",
               charted=False),
        Signal("dominant_share", "Largest class", "share", "lower",
               "Share of the most frequent class among about 256 answers.", charted=False),
        Signal("prior_distance", "Distance from the prior", "share", "lower",
               "Jensen-Shannon divergence of the answered classes, over about 256 images, from the source's prior.",
               charted=False),
    )  # fmt: skip

    def read(self, state: None, view: View) -> Mapping[str, Tensor | float]:
        """Return the three signals of the counts."""
        answers = view.state.answers
        return {
            "marginal_entropy": class_balance.marginal_entropy(answers),
            "dominant_share": class_balance.dominant_share(answers),
            "prior_distance": class_balance.prior_distance(answers, view.reference.prior),
        }
