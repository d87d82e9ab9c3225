"""The whole of adaptation: one request in one stream, read from top to bottom."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.functional import answers
from adapters.joint_step import Stepped
from adapters.monitors.parameter_distance import fisher_weighted, learned, relative
from adapters.state import is_finite
from adapters.values import StepOutput
from service.errors import UnfitError
from service.monitoring import stream_monitors
from service.monitoring.guard import Action, Decision, Verdicts, decide
from service.monitoring.monitor_state import Seeing
from service.monitoring.stream_monitors import Findings
from service.monitoring.suspicion import NONE
from service.streams import pending_images
from service.streams.good_states import GoodStates
from service.streams.stream import SourceCheck, Stream, StreamState

Step: TypeAlias = Callable[[AdapterState, Tensor], Stepped]
OWN_ANSWERS = 4
LOOKED_AT = 24
"""Images of a request that the source model looks at unasked; a larger one is like these."""
LEAST_IMAGES = 16
"""Minimum images in a request for a guard's margin to mean anything; on fewer, any difference decides."""


@dataclass(frozen=True, slots=True)
class Served:
    """An answer and the facts about it.

    Attributes:
        output: What the client gets.
        waited: What became of the step on the images that waited before it; None if none was due.
        answered_generation: The generation that the answer was computed from.
        signals: Entropy, drift, selected share and source agreement, as plain numbers.
        source: The source model's probabilities, where they were computed: (N, C), or of the first images alone.
        adapted: The stream's own (N, C): in shadow mode not those that the client gets.
        features: (N, d) of the source model, where it looked.
        findings: What the monitors found.
        decision: What became of the request's learning, and why.
    """

    output: StepOutput
    waited: Decision | None
    answered_generation: int
    signals: dict[str, float]
    source: Tensor | None
    adapted: Tensor
    features: Tensor | None
    findings: Findings
    decision: Decision

    @property
    def action(self) -> Action:
        """What became of the request's learning."""
        return self.decision.action


def serve(
    stream: Stream, x: Tensor, *, wants_source: bool, source_check_every: int, step: Step | None = None
) -> Served:
    """Answer x (N, C, H, W) and adapt the stream; within `stream.unchanged_on_failure` it happens or does not.

    `step` stands for the stream's own step where it may have been taken with other streams' already.
    """
    step = step or stream.fitted.step
    waited = None
    open_to_learn = stream.mode != "frozen" and not int(stream.state.monitors.pause)
    if open_to_learn and (stream.window_full or len(x) >= stream.adapt_batch_size):
        waited = adapt_window(stream)
    answered_generation = stream.generation
    learns = open_to_learn and len(x) >= stream.adapt_batch_size
    output, after = step(stream.state.adapter, x) if learns else (_predict(stream, x), None)
    answered = output if _finite(output) else _predict(stream, x)
    seeing = _seeing(stream, x, answered, after, wants_source=wants_source)
    policy = stream.policy
    findings = stream_monitors.update(
        stream.state.monitors, seeing, stream.model.reference,
        takeover=policy.takeover, margin=policy.margin, every=source_check_every * _leisure(stream),
        learns=stream.mode != "frozen" and stream.fitted.spec != "source",
    )  # fmt: skip
    if open_to_learn:
        decision = _decided(stream, x, output, after, findings)
        output, answered_generation = _done(stream, x, output, after, findings, decision, answered_generation)
    else:
        decision = Decision(Action.FROZEN, reason=_pausing(stream))
        stream.note(replace(stream.state, monitors=findings.state))
    source = _source(stream, output, seeing)
    answer = _shadowed(output, source) if stream.mode == "shadow" and source is not None else output
    stream.requests += 1
    stream.images += len(x)
    stream.source_check = _source_check(stream, output, source)
    stream.signals = _signals(answer, stream.source_check)
    stream.monitored = {**findings.signals, **_moved(stream)}
    return Served(
        output=answer,
        waited=waited,
        answered_generation=answered_generation,
        signals=dict(stream.signals),
        source=None if source is None else source.probabilities,
        adapted=output.probabilities,
        features=None if seeing.look is None else seeing.look.features,
        findings=findings,
        decision=decision,
    )


def adapt_window(stream: Stream) -> Decision | None:
    """Learn from the images that wait, in one step that is kept or skipped; None if there are none."""
    if not len(stream.state.window):
        return None
    spec = stream.model.bundle.input
    output, after = stream.fitted.step(stream.state.adapter, pending_images.images(stream.state.window, spec))
    decision = _decided_of_window(stream, output, after)
    kept = after if decision.action is Action.KEPT else stream.state.adapter
    stream.commit(replace(stream.state, adapter=kept, window=pending_images.empty(spec)))
    return decision


def guarded(stream: Stream, decision: Decision) -> None:
    """Do what a guard has decided about the state as it is; to skip is to leave it so."""
    if decision.action is Action.SKIPPED:
        return
    monitors = stream_monitors.begun_again(stream.state.monitors, stream.initial().monitors)
    if decision.rule != "every":
        monitors = stream_monitors.alerted(monitors, stream.policy.pause)
    if decision.action is Action.RESET:
        stream.commit(replace(stream.initial(), monitors=monitors))
    elif decision.action in (Action.ROLLED_BACK, Action.FROZEN):
        stream.commit(StreamState(stream.last_good(), pending_images.empty(stream.model.bundle.input), monitors))
    if decision.action is Action.FROZEN:
        stream.mode = "frozen"
    stream.retries = stream.retries.emptied()
    stream.suspicion = NONE
    stream.beginnings += 1


def _decided_of_window(stream: Stream, output: StepOutput, after: AdapterState) -> Decision:
    """Keep a step on images that had waited, or skip it; to go back is left to the request that comes next."""
    verdicts = Verdicts(_finite(output), is_finite(after), distance=_distance(stream, after))
    decision = decide(verdicts, stream.policy)
    skipped = decision.rule == "non_finite" or decision.action is Action.SKIPPED
    return replace(decision, action=Action.SKIPPED) if skipped else Decision(Action.KEPT)


def _decided(stream: Stream, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings) -> Decision:
    """Decide about a step, or about a request that is to wait for one: then what was learned before is judged."""
    decision = decide(_verdicts(stream, x, output, after, findings), stream.policy)
    return Decision(Action.QUEUED) if after is None and decision.action is Action.KEPT else decision


def _done(
    stream: Stream, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings, decision: Decision,
    generation: int,
) -> tuple[StepOutput, int]:  # fmt: skip
    """Do what was decided about a step; return the answer, computed anew where the step is thrown away."""
    noted = replace(stream.state, monitors=findings.state)
    if decision.action is Action.QUEUED:
        stream.note(replace(noted, window=pending_images.append(noted.window, x, stream.model.bundle.input)))
        return output, generation
    if decision.action is Action.KEPT and after is not None:
        stream.commit(replace(noted, adapter=after))
        return output, generation
    stream.note(noted)
    guarded(stream, decision)
    return _predict(stream, x), stream.generation


def _verdicts(
    stream: Stream, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings
) -> Verdicts:
    helps = bool(findings.collapse or findings.harm) and _going_back_helps(stream, x, output)
    return Verdicts(
        finite_answer=after is None or _finite(output),
        finite_state=after is None or is_finite(after),
        collapse=findings.collapse if helps else "",
        harm=findings.harm if helps else "",
        drift_ended=findings.drift_ended,
        distance=_distance(stream, after or stream.state.adapter),
        steps=int((after or stream.state.adapter).steps) if stream.policy.every else 0,
    )


def _distance(stream: Stream, state: AdapterState) -> float | None:
    """Return how far a state's learned parameters are from where they began; None where none are, or no rule asks."""
    now = learned(state) if stream.policy.distance != "off" else {}
    return float(relative(now, learned(stream.fitted.initial()))) if now else None


def _going_back_helps(stream: Stream, x: Tensor, output: StepOutput) -> bool:
    """Whether the state before any batch agrees more often with the source model on these images."""
    source = stream.model.answer_as_source(x).probabilities
    begun, _ = stream.fitted.step(stream.fitted.initial(), x)
    agreements = [answers.agreement(each.probabilities, source) or 0.0 for each in (begun, output)]
    least = stream.policy.margin / 2 if len(x) >= LEAST_IMAGES else 0.0
    return agreements[0] - agreements[1] > least


def _leisure(stream: Stream) -> int:
    """How much more seldom the source model looks at its own answers: for the inputs' sake alone."""
    return OWN_ANSWERS if stream.fitted.spec == "source" else 1


def _pausing(stream: Stream) -> str:
    left = int(stream.state.monitors.pause)
    return f"the guard went back a short time ago, learning pauses for {left} more requests" if left else ""


def _predict(stream: Stream, x: Tensor) -> StepOutput:
    """Answer without learning; rows that are not finite are answered by the source model."""
    output = stream.fitted.predict(stream.state.adapter, x)
    return output if _finite(output) else _completed(output, stream.model.answer_as_source(x))


def _completed(output: StepOutput, source: StepOutput) -> StepOutput:
    """Take the rows that are no answer from the source model; NaN marks those that it cannot answer either."""
    lost = torch.from_numpy(~answers.are_sound(output.logits, output.probabilities))
    if bool(lost.all()):
        return _marked(source)
    logits, probabilities = (
        torch.where(lost[:, None], theirs.to(ours), ours)
        for ours, theirs in ((output.logits, source.logits), (output.probabilities, source.probabilities))
    )
    return _marked(StepOutput(logits, probabilities, output.signals))


def _marked(output: StepOutput) -> StepOutput:
    """Return an answer of which the rows that are none have no finite probability."""
    lost = torch.from_numpy(~answers.are_sound(output.logits, output.probabilities))
    if not bool(lost.any()):
        return output
    return replace(output, probabilities=output.probabilities.masked_fill(lost[:, None], math.nan))


def _seeing(stream: Stream, x: Tensor, output: StepOutput, after: AdapterState | None, *, wants_source: bool) -> Seeing:
    """Let the source model look where it is asked for, alerted or shadowed; where it is only due, at some images."""
    drift = output.signals.get("drift")
    look = known = None
    monitors = stream.state.monitors
    whole = wants_source or stream.mode == "shadow" or bool(monitors.alert)
    if whole or stream_monitors.check_due(monitors):
        look, known = stream.model.watch.look(monitors.seen, x if whole else x[:LOOKED_AT])
    step = None if after is None else _step_length(stream.state.adapter, after)
    return Seeing(output.probabilities, None if drift is None else float(drift), step, look, known)


def _step_length(before: AdapterState, after: AdapterState) -> float | None:
    """Return how far a step has moved the learned parameters, relatively; None where it did not."""
    starts = learned(before)
    return float(relative(learned(after), starts)) or None if starts else None


def _source(stream: Stream, output: StepOutput, seeing: Seeing) -> StepOutput | None:
    """Return the source model's answer where it looked; a plain source stream is its own source."""
    if stream.fitted.spec == "source":
        return output
    return None if seeing.look is None else _marked(StepOutput(seeing.look.logits, seeing.look.logits.softmax(1), {}))


def _shadowed(adapted: StepOutput, source: StepOutput) -> StepOutput:
    """Answer as the source model; what was learned beside it shows in the signals."""
    beside = {name: signal for name, signal in adapted.signals.items() if name != "entropy"}
    return StepOutput(source.logits, source.probabilities, {**source.signals, **beside})


def _source_check(stream: Stream, output: StepOutput, source: StepOutput | None) -> SourceCheck | None:
    agreement = None
    if source is not None:
        agreement = answers.agreement(output.probabilities[: len(source.probabilities)], source.probabilities)
    if agreement is None:
        last = stream.source_check
        return None if last is None else SourceCheck(last.agreement, last.age + 1)
    return SourceCheck(agreement, 0)


def _signals(answer: StepOutput, check: SourceCheck | None) -> dict[str, float]:
    signals = {name: float(signal) for name, signal in answer.signals.items()}
    rows = answers.sound_rows(answer.probabilities)
    signals["entropy"] = float(answers.entropies(rows).mean()) if len(rows) else math.nan
    if check is not None:
        signals |= {"source_agreement": check.agreement, "source_age": float(check.age)}
    return {name: value for name, value in signals.items() if math.isfinite(value)}


def _moved(stream: Stream) -> dict[str, float]:
    """Return how far the learned parameters are from where they began; nothing where none are learned."""
    now, before = learned(stream.state.adapter), learned(stream.fitted.initial())
    if not now:
        return {}
    distances = {"parameter_distance": float(relative(now, before))}
    fisher = stream.fitted.fisher
    return {**distances, "fisher_distance": float(fisher_weighted(now, before, fisher))} if fisher else distances


def _finite(output: StepOutput) -> bool:
    return answers.is_finite(output.probabilities) and answers.is_finite(output.logits)


def reset(stream: Stream) -> None:
    """Return to the state before any batch; a new generation."""
    stream.begin_again(stream.initial())


def restore(stream: Stream, state: StreamState) -> None:
    """Continue from a stored state; a new generation."""
    stream.begin_again(state)


def check_serves(stream: Stream, state: StreamState) -> None:
    """Try a request on a state from outside, whose values may be such that requests fail; the stream stays as it is.

    Raises:
        UnfitError: If it fails.
    """
    spec = stream.model.bundle.input
    low, high = spec.value_range
    x = torch.linspace(low, high, 2 * math.prod(spec.shape)).reshape(2, *spec.shape)
    trial = copy.copy(stream)
    trial.good, trial.mode, trial.adapt_batch_size = GoodStates(0), "adapt", 1
    awake = replace(state.monitors, pause=torch.zeros_like(state.monitors.pause))
    trial.state = replace(state, monitors=awake, window=pending_images.empty(spec))
    try:
        serve(trial, x, wants_source=True, source_check_every=1)
    except Exception as error:
        raise UnfitError(f"the snapshot cannot be restored: a request on it fails ({error})") from error
