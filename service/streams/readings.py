"""The readings of a stream after a request: signals, source check, suspicion, features, shadow report."""

import math
from dataclasses import replace

from adapters.functional import answers
from adapters.monitors.parameter_distance import fisher_weighted, learned, relative
from adapters.values import StepOutput
from service.monitoring import feature_shift
from service.monitoring.monitor_state import Seeing
from service.monitoring.stream_monitors import Findings
from service.monitoring.suspicion import Suspicion, judged
from service.streams.value import Readings, SourceCheck, StreamValue


def readings_after(
    value: StreamValue, answer: StepOutput, output: StepOutput, source: StepOutput | None, seeing: Seeing,
    findings: Findings,
) -> Readings:  # fmt: skip
    """Return the readings after a request.

    Args:
        value: The stream's value, with the state after the request and the readings before it.
        answer: The client's answer.
        output: The stream's own answer. In shadow mode, the client gets the source model's.
        source: The source model's answer to the first images, if it was computed.
        seeing: The monitors' inputs.
        findings: The monitors' findings.
    """
    before, look = value.readings, seeing.look
    check = _source_check(before.source_check, output, source)
    shadow = before.shadow
    if value.config.mode == "shadow" and source is not None:
        shadow = shadow.plus(output.probabilities, source.probabilities)
    return replace(
        before,
        signals=_signals(answer, check),
        monitored={**findings.signals, **_parameter_distances(value)},
        source_check=check,
        suspicion=_suspicion(value) if findings.looked else before.suspicion,
        features=before.features if look is None else feature_shift.kept(before.features, look.features),
        shadow=shadow,
    )


def _suspicion(value: StreamValue) -> Suspicion:
    """Judge from all source checks so far whether the stream is worse than its source model."""
    gap = None if value.readings.probe is None else value.readings.probe.source_gap
    calibration, monitors = value.config.model.reference.calibration, value.state.monitors
    return judged(monitors.suspicion, calibration, gap, value.config.policy.budget, float(monitors.recent))


def _source_check(last: SourceCheck | None, output: StepOutput, source: StepOutput | None) -> SourceCheck | None:
    agreement = None
    if source is not None:
        agreement = answers.agreement(output.probabilities[: len(source.probabilities)], source.probabilities)
    if agreement is None:
        return None if last is None else SourceCheck(last.agreement, last.age + 1)
    return SourceCheck(agreement, 0)


def _signals(answer: StepOutput, check: SourceCheck | None) -> dict[str, float]:
    signals = {name: float(signal) for name, signal in answer.signals.items()}
    rows = answers.sound_rows(answer.probabilities)
    signals["entropy"] = float(answers.entropies(rows).mean()) if len(rows) else math.nan
    if check is not None:
        signals |= {"source_agreement": check.agreement, "source_age": float(check.age)}
    return {name: value for name, value in signals.items() if math.isfinite(value)}


def _parameter_distances(value: StreamValue) -> dict[str, float]:
    """Return how far the learned parameters are from the initial ones; empty if nothing is learned."""
    now, before = learned(value.state.adapter), learned(value.config.fitted.initial())
    if not now:
        return {}
    distances = {"parameter_distance": float(relative(now, before))}
    fisher = value.config.fitted.fisher
    return {**distances, "fisher_distance": float(fisher_weighted(now, before, fisher))} if fisher else distances
