"""All signals of a stream: those of the engine and the server, and those of the monitors in `monitors/`."""

from collections.abc import Mapping
from functools import cache

from service.monitoring import registry
from service.monitoring.signal import Signal

ENGINE = (
    Signal("entropy", "Entropy", "nats", "neither",
           "Mean entropy of the answers. Low entropy means sure answers, not right ones."),
    Signal("drift", "Drift", "variances", "lower",
           "Squared shift of mean and standard deviation from the source's norm statistics to the batch's, averaged "
           "over channels, in source variances."),
    Signal("agreement", "Agreement with the source", "share", "higher",
           "Share of answers equal to the source model's, among the images that it looked at."),
    Signal("source_gap", "Source gap", "share", "lower",
           "Accuracy on the probe set lost against the source model. Negative if adaptation gained accuracy."),
    Signal("forgetting", "Forgetting", "share", "lower",
           "Accuracy on the probe set lost against the state before any batch."),
    Signal("true_accuracy", "True accuracy", "share", "higher",
           "Accuracy by late labels; an image fades over 500 others."),
    Signal("selected_ratio", "Selected share", "share", "neither",
           "Share of the batch that the learner selected for its loss."),
    Signal("milliseconds", "Latency", "milliseconds", "lower", "Time of a request on the worker."),
    Signal("step_seconds", "Step", "seconds", "lower", "Time of the newest request on the worker.", charted=False),
    Signal("source_age", "Age of the agreement", "requests", "lower",
           "Requests since the source model last looked at the stream; 0 if it looked at this one.", charted=False),
    Signal("parameter_distance", "Parameter distance", "ratio", "neither",
           "Distance of the learned parameters from the source's, relative to the length of the source's.",
           charted=False),
    Signal("fisher_distance", "Fisher distance", "ratio", "lower",
           "Parameter distance weighted by the Fisher information. Only with the source artefact `fisher`.",
           charted=False),
    Signal("feature_distance", "Feature distance", "ratio", "lower",
           "Maximum mean discrepancy (MMD) between the newest images' features and the source's.", charted=False),
)  # fmt: skip
"""The signals that the monitors in `monitors/` do not compute: from answers, probes, labels and the worker."""


@cache
def every_signal() -> Mapping[str, Signal]:
    """Return all signals by name."""
    signals = [*ENGINE, *(signal for monitor in registry.found().values() for signal in monitor.signals)]
    return {signal.name: signal for signal in signals}


@cache
def charted() -> tuple[str, ...]:
    """Return the names of the signals that a history records, in the order of its columns."""
    return tuple(name for name, signal in every_signal().items() if signal.charted)
