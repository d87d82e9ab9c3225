"""Gauges over all streams, set at each scrape: the distribution of each signal, and the number of suspected streams."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from service.monitoring.suspicion import CAUSES
from service.streams.stream import Stream
from service.telemetry.metrics import Telemetry

QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
NAMES = {"source_agreement": "agreement"}
"""Signals that have another name on the page than on the wire."""
LEFT_OUT = frozenset({"source_age"})


def observe(telemetry: Telemetry, streams: Iterable[Stream]) -> None:
    """Set the gauges of all streams in memory. A stream without a value for a signal is left out of that signal."""
    values_of: dict[tuple[str, str], list[float]] = defaultdict(list)
    suspected: dict[tuple[str, str], int] = defaultdict(int)
    for stream in streams:
        model = stream.model.name
        for signal, value in signals_of(stream).items():
            values_of[model, signal].append(value)
        for cause in CAUSES:
            suspected[model, cause] += stream.current.readings.suspicion.cause == cause
    for gauge in telemetry.stream_signals.values():
        gauge.clear()
    for (model, signal), values in values_of.items():
        found = np.quantile(values, list(QUANTILES.values()))
        for name, value in zip(QUANTILES, found.tolist(), strict=True):
            telemetry.stream_signals[name].labels(model, signal).set(value)
    telemetry.suspected.clear()
    for (model, cause), count in suspected.items():
        telemetry.suspected.labels(model, cause).set(count)


def signals_of(stream: Stream) -> Mapping[str, float]:
    """Return the newest value of each signal of a stream, by its name on the page."""
    readings = stream.current.readings
    newest = (*readings.monitored.items(), *readings.signals.items())
    found = {NAMES.get(name, name): value for name, value in newest}
    for name in LEFT_OUT:
        found.pop(name, None)
    probe = readings.probe
    if probe is not None:
        found |= {"source_gap": probe.source_gap, "forgetting": probe.forgetting}
        if probe.compared is not None:
            found["feature_distance"] = probe.compared.mmd
    if stream.feedback.true.images:
        found["true_accuracy"] = stream.feedback.true.recent
    if stream.seconds:
        found["step_seconds"] = stream.seconds
    return found
