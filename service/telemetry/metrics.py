"""All Prometheus metrics of the server."""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

PREFIX = "acclimate"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RATIOS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
NATS = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
DRIFTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
GAPS = (-0.1, -0.05, -0.02, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
ESTIMATES = (
    "estimated_accuracy", "confidence_accuracy", "confidence",
    "source_estimated_accuracy", "source_confidence_accuracy", "source_confidence",
)  # fmt: skip
OVER_STREAMS = {
    "min": "the least", "p10": "the 10 % quantile", "p50": "the median", "p90": "the 90 % quantile",
    "max": "the greatest",
}  # fmt: skip
RESET = "reset"
"""The guard action that is also counted in the `resets` metric."""
RATIO_SIGNALS = ("selected_ratio", "source_agreement")

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped


class Telemetry:
    """The metrics of one process. No label names a stream, because the number of streams is not bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by answer.", ("model", "code"))
        self.samples = self._counter("samples", "Images answered.", ("model",))
        self.steps = self._counter(
            "steps", "Inference requests, by the action taken on their step.", ("model", "adapter", "action")
        )
        self.window_steps = self._counter(
            "window_steps", "Steps on queued images, by the action taken on them.", ("model", "adapter", "action")
        )
        self.request_seconds = self._histogram(
            "request_duration_seconds", "Time from body to answer.", SECONDS, ("model",)
        )
        self.queue_seconds = self._histogram(
            "queue_duration_seconds", "Time spent waiting for the stream's turn.", SECONDS
        )
        self.step_seconds = self._histogram(
            "step_duration_seconds", "Time on the worker.", SECONDS, ("model", "adapter")
        )
        self.batch_samples = self._histogram("batch_size_samples", "Images per request.", SAMPLES, ("model",))
        self.group_streams = self._histogram(
            "group_size_streams", "Streams whose steps ran as one.", SAMPLES[1:-2], ("model", "adapter")
        )
        self.entropy = self._histogram(
            "prediction_entropy_nats", "Mean entropy of a request's answers.", NATS, ("model",)
        )
        self.drift = self._histogram(
            "drift_ratio", "Squared shift of norm statistics, in source variances.", DRIFTS, ("model",)
        )
        self.ratios = self._histogram("signal_ratio", "Signals between 0 and 1.", RATIOS, ("model", "signal"))
        self.queue_depth = self._gauge("queue_depth_requests", "Requests that are waiting or running.")
        self.streams = self._gauge("streams_active", "Streams in memory.")
        self.state_bytes = self._gauge("state_bytes", "Bytes of all streams' states.")
        self.tasks = self._gauge("tasks_active", "Tasks of the event loop that are not done.")
        self.restarts = self._counter(
            "background_restarts", "Background tasks that ended and were started again.", ("task",)
        )
        self.snapshots = self._counter("snapshots", "Snapshot operations.", ("action", "outcome"))
        self.checkpoints = self._counter("checkpoints", "Attempts to save a stream, by outcome.", ("outcome",))
        self.resting = self._gauge("streams_resting", "Streams held only in the store.")
        self.resets = self._counter("resets", "Streams returned to the source state.", ("model", "reason"))
        self.guards = self._counter("guard_actions", "Guard actions, by rule.", ("model", "action", "reason"))
        self.detections = self._counter(
            "drift_detections", "Changes that drift detectors found.", ("model", "signal", "detector")
        )
        self.probe_seconds = self._histogram(
            "probe_duration_seconds", "Time of a probe run, including its waits.", SECONDS
        )
        self.source_gap = self._histogram(
            "source_gap_ratio", "Accuracy on the probe set lost against the source model.", GAPS, ("model",)
        )
        self.forgetting = self._histogram(
            "forgetting_ratio", "Accuracy on the probe set lost by learning.", GAPS, ("model",)
        )
        self.stream_signals = {
            name: self._gauge(
                f"stream_signal_{name}", f"Over streams in memory, {statistic} of a signal's newest values.",
                ("model", "signal"),
            )
            for name, statistic in OVER_STREAMS.items()
        }  # fmt: skip
        self.suspected = self._gauge(
            "streams_suspected", "Streams suspected to be worse than their source model.", ("model", "reason")
        )
        self.estimates = self._histogram(
            "estimated_accuracy_ratio", "Accuracy estimated without labels.", RATIOS, ("model", "signal")
        )
        self.feedback = self._counter("feedback_samples", "Images with late labels.", ("model", "outcome"))
        self.events = self._counter("events", "Entries written to the event log.", ("action",))
        build = self._gauge("build_info", "Versions; always 1.", ("version", "torch", "python"))
        build.labels(version("acclimate"), version("torch"), platform.python_version()).set(1)

    def expose(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def observe_answer(self, model: str, adapter: str, action: str, samples: int, signals: Mapping[str, float]) -> None:
        """Record one answered inference request and its signals."""
        self.samples.labels(model).inc(samples)
        self.steps.labels(model, adapter, action).inc()
        self.batch_samples.labels(model).observe(samples)
        if "entropy" in signals:  # a model's own answer may not be finite
            self.entropy.labels(model).observe(signals["entropy"])
        if "drift" in signals:
            self.drift.labels(model).observe(signals["drift"])
        for name in RATIO_SIGNALS:
            if name in signals and not (name == "source_agreement" and signals.get("source_age")):
                self.ratios.labels(model, name.removesuffix("_ratio")).observe(signals[name])

    def observe_monitors(self, model: str, found: Mapping[str, float], alarms: Iterable[tuple[str, str]]) -> None:
        """Record the accuracy estimates of one request and its alarms, each a pair of signal and detector."""
        for name in ESTIMATES:
            if name in found:
                self.estimates.labels(model, name).observe(found[name])
        for signal, detector in alarms:
            self.detections.labels(model, signal, detector).inc()

    def observe_guard(self, model: str, action: str, rule: str) -> None:
        """Count a guard's action, by rule."""
        self.guards.labels(model, action, rule).inc()
        if action == RESET:
            self.resets.labels(model, rule).inc()

    def observe_probe(self, model: str, source_gap: float, forgetting: float, seconds: float) -> None:
        """Record one probe run."""
        self.source_gap.labels(model).observe(source_gap)
        self.forgetting.labels(model).observe(forgetting)
        self.probe_seconds.observe(seconds)

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{PREFIX}_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", help_text, labels, buckets=buckets, registry=self.registry)
