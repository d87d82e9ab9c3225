"""One request in one stream: answer it, adapt the stream, let the guard decide. Read from top to bottom.

Every function takes a stream's value and returns new ones. The stream changes when its caller commits one of them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.functional import answers
from adapters.joint_step import Stepped
from adapters.monitors.parameter_distance import learned, relative
from adapters.state import flatten, is_finite
from adapters.values import StepOutput
from service.errors import UnfitError
from service.models.hosted import Fitted
from service.monitoring import stream_monitors
from service.monitoring.guard import Action, Decision, Verdicts, decide
from service.monitoring.monitor_state import MonitorState, Seeing
from service.monitoring.stream_monitors import Findings
from service.monitoring.suspicion import NONE, Suspicion
from service.streams import pending_images
from service.streams.good_states import GoodStates
from service.streams.readings import readings_after
from service.streams.value import StreamState, StreamValue

Step: TypeAlias = Callable[[AdapterState, Tensor], Stepped]
OWN_ANSWERS = 4
"""Factor that thins out source checks on streams that run the source model itself."""
LOOKED_AT = 24
"""Most images of a request that a routine source check runs on; they stand for the others."""
LEAST_IMAGES = 16
"""Minimum images in a request for the guard's margin to apply; with fewer, any difference decides."""


@dataclass(frozen=True, slots=True)
class Served:
    """An answer, the stream's value after it, and the facts about it.

    Attributes:
        value: The stream's value after the request.
        output: The client's answer.
        waited: Decision about the step on the window's images; None if none was due.
        answered_generation: The generation that the answer was computed from.
        source: The source model's probabilities if computed: (N, C), or fewer rows for the first images alone.
        adapted: (N, C) probabilities of the stream itself; in shadow mode the client gets others.
        findings: The monitors' findings.
        decision: The action taken on the request's learning, and its reason.
        suspected: The suspicion that began with this request; NONE if none did.
    """

    value: StreamValue
    output: StepOutput
    waited: Decision | None
    answered_generation: int
    source: Tensor | None
    adapted: Tensor
    findings: Findings
    decision: Decision
    suspected: Suspicion

    @property
    def action(self) -> Action:
        """The action taken on the request's learning."""
        return self.decision.action

    @property
    def signals(self) -> Mapping[str, float]:
        """Entropy, drift, selected share and source agreement, as plain numbers."""
        return self.value.readings.signals


def serve(
    value: StreamValue, x: Tensor, *, wants_source: bool, source_check_every: int, step: Step | None = None
) -> Served:
    """Answer x (N, C, H, W) and adapt the stream: return the answer and the stream's next value.

    `step` replaces the stream's own step; a batched step shared with other streams is passed this way.
    """
    config = value.config
    step = step or config.fitted.step
    waited = None
    open_to_learn = config.mode != "frozen" and not int(value.state.monitors.pause)
    if open_to_learn and (value.window_full or len(x) >= config.adapt_batch_size):
        value, waited = adapt_window(value)
    answered_generation = value.generation
    learns = open_to_learn and len(x) >= config.adapt_batch_size
    output, after = step(value.state.adapter, x) if learns else (_predict(value, x), None)
    answered = output if _finite(output) else _predict(value, x)
    seeing = _seeing(value, x, answered, after, wants_source=wants_source)
    findings = stream_monitors.update(
        value.state.monitors, seeing, config.model.reference,
        takeover=config.policy.takeover, margin=config.policy.margin, every=source_check_every * _check_factor(value),
        learns=config.mode != "frozen" and config.fitted.spec != "source",
    )  # fmt: skip
    if open_to_learn:
        decision = _decide(value, x, output, after, findings)
        value, output, answered_generation = _apply(value, x, output, after, findings, decision, answered_generation)
    else:
        decision = Decision(Action.FROZEN, reason=_pausing(value))
        value = value.with_state(replace(value.state, monitors=findings.state))
    source = _source(value, output, seeing)
    answer = _shadowed(output, source) if value.config.mode == "shadow" and source is not None else output
    readings = readings_after(value, answer, output, source, seeing, findings)
    begins = bool(readings.suspicion.cause) and not value.readings.suspicion.cause
    return Served(
        value=replace(value, counters=value.counters.after_request(len(x)), readings=readings),
        output=answer,
        waited=waited,
        answered_generation=answered_generation,
        source=None if source is None else source.probabilities,
        adapted=output.probabilities,
        findings=findings,
        decision=decision,
        suspected=readings.suspicion if begins else NONE,
    )


def adapt_window(value: StreamValue) -> tuple[StreamValue, Decision | None]:
    """Learn from the waiting images in one step that is kept or skipped.

    Returns:
        The next value, and the decision about the step; the same value and None if no image waits.
    """
    if not len(value.state.window):
        return value, None
    spec = value.config.model.bundle.input
    images = pending_images.images(value.state.window, spec)
    output, after = value.config.fitted.step(value.state.adapter, images)
    decision = _decide_about_window(value, output, after)
    kept = after if decision.action is Action.KEPT else value.state.adapter
    return value.with_next(replace(value.state, adapter=kept, window=pending_images.empty(spec))), decision


def apply_guard(value: StreamValue, decision: Decision) -> StreamValue:
    """Apply a guard's decision about the current state. Skipping changes nothing."""
    if decision.action is Action.SKIPPED:
        return value
    initial = value.config.initial()
    monitors = stream_monitors.begun_again(value.state.monitors, initial.monitors)
    if decision.rule != "every":
        monitors = stream_monitors.alerted(monitors, value.config.policy.pause)
    if decision.action is Action.RESET:
        value = value.with_next(replace(initial, monitors=monitors))
    elif decision.action in (Action.ROLLED_BACK, Action.FROZEN):
        value = _rolled_back(value, initial, monitors)
    if decision.action is Action.FROZEN:
        value = replace(value, config=replace(value.config, mode="frozen"))
    counters = replace(value.counters, beginnings=value.counters.beginnings + 1)
    readings = replace(value.readings, suspicion=NONE)
    return replace(value, counters=counters, readings=readings, retries=value.retries.emptied())


def _rolled_back(value: StreamValue, initial: StreamState, monitors: MonitorState) -> StreamValue:
    """Return to the newest good state, or the initial one. It leaves the ring, so the next rollback goes further."""
    newest = next(iter(value.good.kept), None)
    good = None if newest is None else newest.state(initial.adapter)
    value = replace(value, good=value.good.without_newest())
    return value.with_next(replace(initial, adapter=initial.adapter if good is None else good, monitors=monitors))


def _decide_about_window(value: StreamValue, output: StepOutput, after: AdapterState) -> Decision:
    """Keep a step on images that had waited, or skip it. Going back is left to the next request."""
    verdicts = Verdicts(_finite(output), is_finite(after), distance=_distance(value, after))
    decision = decide(verdicts, value.config.policy)
    skipped = decision.rule == "non_finite" or decision.action is Action.SKIPPED
    return replace(decision, action=Action.SKIPPED) if skipped else Decision(Action.KEPT)


def _decide(
    value: StreamValue, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings
) -> Decision:
    """Decide about a step. If the request only joins the window, earlier learning is judged."""
    decision = decide(_verdicts(value, x, output, after, findings), value.config.policy)
    return Decision(Action.QUEUED) if after is None and decision.action is Action.KEPT else decision


def _apply(
    value: StreamValue, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings,
    decision: Decision, generation: int,
) -> tuple[StreamValue, StepOutput, int]:  # fmt: skip
    """Apply the decision about a step.

    Return the next value, the answer, recomputed if the step is thrown away, and the answer's generation.
    """
    noted = replace(value.state, monitors=findings.state)
    if decision.action is Action.QUEUED:
        window = pending_images.append(noted.window, x, value.config.model.bundle.input)
        return value.with_state(replace(noted, window=window)), output, generation
    if decision.action is Action.KEPT and after is not None:
        return value.with_next(replace(noted, adapter=after)), output, generation
    value = apply_guard(value.with_state(noted), decision)
    return value, _predict(value, x), value.generation


def _verdicts(
    value: StreamValue, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings
) -> Verdicts:
    helps = bool(findings.collapse or findings.harm) and _going_back_helps(value, x, output)
    return Verdicts(
        finite_answer=after is None or _finite(output),
        finite_state=after is None or is_finite(after),
        collapse=findings.collapse if helps else "",
        harm=findings.harm if helps else "",
        drift_ended=findings.drift_ended,
        distance=_distance(value, after or value.state.adapter),
        steps=int((after or value.state.adapter).steps) if value.config.policy.every else 0,
    )


def _distance(value: StreamValue, state: AdapterState) -> float | None:
    """Return the relative distance of a state's learned parameters from the initial ones.

    None if nothing is learned or no rule needs the distance.
    """
    now = learned(state) if value.config.policy.distance != "off" else {}
    return float(relative(now, learned(value.config.fitted.initial()))) if now else None


def _going_back_helps(value: StreamValue, x: Tensor, output: StepOutput) -> bool:
    """Return whether the initial state agrees with the source model on these images clearly more than `output` does."""
    source = value.config.model.answer_as_source(x).probabilities
    initial, _ = value.config.fitted.step(value.config.fitted.initial(), x)
    agreements = [answers.agreement(each.probabilities, source) or 0.0 for each in (initial, output)]
    least = value.config.policy.margin / 2 if len(x) >= LEAST_IMAGES else 0.0
    return agreements[0] - agreements[1] > least


def _check_factor(value: StreamValue) -> int:
    """Return the factor that thins out source checks; a source stream needs them for its inputs alone."""
    return OWN_ANSWERS if value.config.fitted.spec == "source" else 1


def _pausing(value: StreamValue) -> str:
    requests = int(value.state.monitors.pause)
    return f"the guard went back a short time ago, learning pauses for {requests} more requests" if requests else ""


def _predict(value: StreamValue, x: Tensor) -> StepOutput:
    """Answer without learning. The source model answers the rows that are not finite."""
    output = value.config.fitted.predict(value.state.adapter, x)
    return output if _finite(output) else _completed(output, value.config.model.answer_as_source(x))


def _completed(output: StepOutput, source: StepOutput) -> StepOutput:
    """Replace unsound rows by the source model's. Rows that the source model cannot answer either become NaN."""
    lost = torch.from_numpy(~answers.are_sound(output.logits, output.probabilities))
    if bool(lost.all()):
        return _marked(source)
    logits, probabilities = (
        torch.where(lost[:, None], theirs.to(ours), ours)
        for ours, theirs in ((output.logits, source.logits), (output.probabilities, source.probabilities))
    )
    return _marked(StepOutput(logits, probabilities, output.signals))


def _marked(output: StepOutput) -> StepOutput:
    """Return an answer whose unsound rows have NaN probabilities."""
    lost = torch.from_numpy(~answers.are_sound(output.logits, output.probabilities))
    if not bool(lost.any()):
        return output
    return replace(output, probabilities=output.probabilities.masked_fill(lost[:, None], math.nan))


def _seeing(
    value: StreamValue, x: Tensor, output: StepOutput, after: AdapterState | None, *, wants_source: bool
) -> Seeing:
    """Collect the monitors' inputs, with the source model's look at the images if one is requested or due.

    The source model sees all images on request, in shadow mode and after an alarm, and the first ones otherwise.
    """
    drift = output.signals.get("drift")
    look = seen = None
    monitors = value.state.monitors
    whole = wants_source or value.config.mode == "shadow" or bool(monitors.alert)
    if whole or stream_monitors.check_due(monitors):
        look, seen = value.config.model.watch.look(monitors.seen, x if whole else x[:LOOKED_AT])
    step = None if after is None else _step_length(value.state.adapter, after)
    return Seeing(output.probabilities, None if drift is None else float(drift), step, look, seen)


def _step_length(before: AdapterState, after: AdapterState) -> float | None:
    """Return the relative length of a step in the learned parameters; None if they did not move."""
    starts = learned(before)
    return float(relative(learned(after), starts)) or None if starts else None


def _source(value: StreamValue, output: StepOutput, seeing: Seeing) -> StepOutput | None:
    """Return the source model's answer if it was computed. A source stream's own answer is the source model's."""
    if value.config.fitted.spec == "source":
        return output
    return None if seeing.look is None else _marked(StepOutput(seeing.look.logits, seeing.look.logits.softmax(1), {}))


def _shadowed(adapted: StepOutput, source: StepOutput) -> StepOutput:
    """Answer as the source model does, and keep the adapted stream's signals, except entropy."""
    adapted_signals = {name: signal for name, signal in adapted.signals.items() if name != "entropy"}
    return StepOutput(source.logits, source.probabilities, {**source.signals, **adapted_signals})


def _finite(output: StepOutput) -> bool:
    return answers.is_finite(output.probabilities) and answers.is_finite(output.logits)


def reset(value: StreamValue) -> StreamValue:
    """Return to the state before any batch, as a new generation."""
    return value.with_new_beginning(value.config.initial())


def restore(value: StreamValue, state: StreamState) -> StreamValue:
    """Continue from a stored state, as a new generation."""
    return value.with_new_beginning(state)


def refit(value: StreamValue, fitted: Fitted) -> StreamValue:
    """Start from the new spec's initial state. Options that keep the spec and all shapes keep the state."""
    before = value.config.fitted
    value = replace(value, config=replace(value.config, fitted=fitted))
    keeps = fitted.spec == before.spec and _same_shapes(fitted, before)
    return value.with_next(value.state) if keeps else reset(value)


def _same_shapes(one: Fitted, other: Fitted) -> bool:
    first, second = flatten(one.initial()), flatten(other.initial())
    return {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}


def check_serves(value: StreamValue, state: StreamState) -> None:
    """Try a request on a state from outside, whose values may make requests fail.

    Raises:
        UnfitError: If the request fails.
    """
    spec = value.config.model.bundle.input
    low, high = spec.value_range
    x = torch.linspace(low, high, 2 * math.prod(spec.shape)).reshape(2, *spec.shape)
    awake = replace(state.monitors, pause=torch.zeros_like(state.monitors.pause))
    trial = replace(
        value,
        config=replace(value.config, mode="adapt", adapt_batch_size=1),
        state=replace(state, monitors=awake, window=pending_images.empty(spec)),
        good=GoodStates(0),
    )
    try:
        serve(trial, x, wants_source=True, source_check_every=1)
    except Exception as error:
        raise UnfitError(f"the snapshot cannot be restored: a request on it fails ({error})") from error
