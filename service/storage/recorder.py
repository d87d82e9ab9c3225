"""Records an answered request: metrics, events, the stream's history, and the answer that late labels may come for."""

import math
import time
from dataclasses import replace

import numpy as np
from torch import Tensor

from adapters.functional import answers
from adapters.functional.entropy import entropy_of_probabilities
from adapters.source import as_stored
from service.monitoring.guard import GUARDED, Action
from service.monitoring.history import Misfit
from service.monitoring.late_labels import Answered
from service.monitoring.stream_monitors import Findings
from service.storage.event_log import EventLog
from service.streams.engine import Served
from service.streams.records import Event
from service.streams.stream import Stream
from service.support.clock import CLOCK
from service.telemetry.caller import CALLER
from service.telemetry.metrics import ESTIMATES, Telemetry
from service.types import Happening

TROUBLE = frozenset({"drift", "guard", "seen"})
"""Kinds of events that a stream's badge shows for a while."""
TROUBLE_SECONDS = 600.0
"""Seconds that the badge shows them."""
CONTROL = frozenset({
    "created", "changed", "deleted", "reset", "restored", "snapshot", "snapshot_deleted", "uploaded", "labels",
})  # fmt: skip
"""Kinds of events that a caller caused; their reason names the caller."""
SETTLING = frozenset({"reset", "restored"})
"""Kinds of events that end the trouble, since the stream's state was replaced."""


class Recorder:
    """Records everything that happens to streams.

    Args:
        telemetry: Counts it.
        events: Logs it.
        misfits: Images kept per stream that it was unsure of; 0 for none.
    """

    def __init__(self, telemetry: Telemetry, events: EventLog, misfits: int) -> None:
        self._telemetry = telemetry
        self._events = events
        self._misfits = misfits

    def log_by_id(self, stream_id: str, model: str, happening: Happening) -> Event:
        """Log an event about a stream that is not in memory."""
        self._telemetry.events.labels(happening.kind).inc()
        if happening.kind in CONTROL and CALLER.get():
            happening = replace(happening, reason=f"{happening.reason}, by {CALLER.get()}")
        return self._events.add(happening, stream_id, model)

    def log(self, stream: Stream, happening: Happening) -> None:
        """Log an event about a stream, and update its trouble."""
        event = self.log_by_id(stream.id, stream.model.name, happening)
        if happening.kind in SETTLING:
            stream.trouble = None
        elif happening.kind in TROUBLE and not _hidden(event, stream.trouble):
            stream.trouble = event

    def record(self, stream: Stream, request_id: str, x: Tensor, served: Served, seconds: float) -> None:
        """Record an answered request, on the worker in the stream's turn.

        A suspicion that comes and goes is logged at most once a minute for each cause.
        """
        model, spec, now = stream.model.name, served.value.config.fitted.spec, CLOCK.now()
        monitored = served.value.readings.monitored
        stream.seconds = seconds
        self._telemetry.step_seconds.labels(model, spec).observe(seconds)
        self._telemetry.observe_answer(model, spec, served.action.value, len(x), served.signals)
        alarms = ((alarm.signal, alarm.detector) for alarm in served.findings.alarms)
        self._telemetry.observe_monitors(model, monitored, alarms)
        for happening in _happenings(stream, served, now):
            self.log(stream, happening)
        suspected = served.suspected
        if suspected.cause and stream.merging.notices(suspected.cause, now):
            self.log(stream, Happening("suspected", suspected.reason, figures=monitored))
        if served.decision.rule:
            self._telemetry.observe_guard(model, served.decision.action.value, served.decision.rule)
        labels = _labels(served.adapted)
        source = None if served.source is None else _labels(served.source)
        estimates = {name: monitored[name] for name in ESTIMATES if name in monitored}
        stream.feedback.remember(request_id, Answered(time.monotonic(), labels, source, estimates))
        stream.history.add(now, served.value.generation, len(x), _series(stream, served, seconds))
        if served.findings.looked:
            distances = stream.model.watch.layers(served.value.state.monitors.seen)
            stream.history.add_layers(now, list(distances.values()))
        misfit = _misfit(stream, x, served, now) if self._misfits else None
        if misfit is not None:
            stream.history.add_misfit(misfit, self._misfits)


def _hidden(event: Event, before: Event | None) -> bool:
    """Return whether the trouble shown already is more serious: a guard's action is, compared with a drift after it."""
    if before is None or event.kind == "guard":
        return False
    return before.kind == "guard" and event.time - before.time < TROUBLE_SECONDS


def _happenings(stream: Stream, served: Served, now: float) -> list[Happening]:
    drift, monitored = stream.merging.drift(served.findings.alarms, now), served.value.readings.monitored
    happenings = [] if drift is None else [drift]
    decision = served.decision
    if decision.rule:
        figures = {**monitored, **served.signals}
        happenings.append(Happening("guard", decision.reason, decision.action.value, figures))
    unanswered = _unanswered(served.findings, served.action)
    if unanswered and stream.merging.notices("seen", now):
        happenings += [Happening("seen", text, figures=monitored) for text in unanswered]
    if served.waited is not None and served.waited.rule:
        reason = f"on images that had waited: {served.waited.reason}"
        happenings.append(Happening("guard", reason, served.waited.action.value))
    return happenings


def _unanswered(findings: Findings, action: Action) -> list[str]:
    """Return the findings that led to no action, because the policy says so or the stream is frozen."""
    return [] if action in (*GUARDED, Action.FROZEN) else [text for text in (findings.collapse, findings.harm) if text]


def _series(stream: Stream, served: Served, seconds: float) -> dict[str, float]:
    probe, true = served.value.readings.probe, stream.feedback.true
    series = {**served.value.readings.monitored, **served.signals, "milliseconds": 1000 * seconds}
    if served.findings.looked and "source_agreement" in served.signals:
        series["agreement"] = served.signals["source_agreement"]
    if probe is not None:
        series |= {"source_gap": probe.source_gap, "forgetting": probe.forgetting}
    return {**series, "true_accuracy": true.recent} if true.images else series


def _labels(probabilities: Tensor) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    labels: np.ndarray[tuple[int], np.dtype[np.int32]] = answers.labels(probabilities).astype(np.int32)
    return labels


def _misfit(stream: Stream, x: Tensor, served: Served, now: float) -> Misfit | None:
    """Return the image with a finite answer that the stream was least sure of."""
    entropies = entropy_of_probabilities(served.output.probabilities).nan_to_num(-math.inf)
    row = int(entropies.argmax())
    if not math.isfinite(entropies[row]):
        return None
    image = as_stored(x[row], stream.model.source.value_range).numpy()
    return Misfit(now, int(served.output.probabilities[row].argmax()), float(entropies[row]), image)
