"""One request in one stream: answer it, adapt the stream, let the guard decide. Read from top to bottom."""

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
"""Factor that thins out source checks on streams that run the source model itself."""
LOOKED_AT = 24
"""Most images of a request that a routine source check runs on; they stand for the others."""
LEAST_IMAGES = 16
"""Minimum images in a request for the guard's margin to apply; with fewer, any difference decides."""


@dataclass(frozen=True, slots=True)
class Served:
    """An answer and the facts about it.

    Attributes:
        output: The client's answer.
        waited: Decision about the step on the window's images; None if none was due.
        answered_generation: The generation that the answer was computed from.
        signals: Entropy, drift, selected share and source agreement, as plain numbers.
        source: The source model's probabilities if computed: (N, C), or fewer rows for the first images alone.
        adapted: (N, C) probabilities of the stream itself; in shadow mode the client gets others.
        features: (n, d) features of the source model on the images it looked at; None without a source check.
        findings: The monitors' findings.
        decision: The action taken on the request's learning, and its reason.
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
        """The action taken on the request's learning."""
        return self.decision.action


def serve(
    stream: Stream, x: Tensor, *, wants_source: bool, source_check_every: int, step: Step | None = None
) -> Served:
    """Answer x (N, C, H, W) and adapt the stream. Call it within `stream.unchanged_on_failure`.

    `step` replaces the stream's own step; a batched step shared with other streams is passed this way.
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
        takeover=policy.takeover, margin=policy.margin, every=source_check_every * _check_factor(stream),
        learns=stream.mode != "frozen" and stream.fitted.spec != "source",
    )  # fmt: skip
    if open_to_learn:
        decision = _decide(stream, x, output, after, findings)
        output, answered_generation = _apply(stream, x, output, after, findings, decision, answered_generation)
    else:
        decision = Decision(Action.FROZEN, reason=_pausing(stream))
        stream.note(replace(stream.state, monitors=findings.state))
    source = _source(stream, output, seeing)
    answer = _shadowed(output, source) if stream.mode == "shadow" and source is not None else output
    stream.requests += 1
    stream.images += len(x)
    stream.source_check = _source_check(stream, output, source)
    stream.signals = _signals(answer, stream.source_check)
    stream.monitored = {**findings.signals, **_parameter_distances(stream)}
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
    """Learn from the waiting images in one step that is kept or skipped; return None if no image waits."""
    if not len(stream.state.window):
        return None
    spec = stream.model.bundle.input
    output, after = stream.fitted.step(stream.state.adapter, pending_images.images(stream.state.window, spec))
    decision = _decide_about_window(stream, output, after)
    kept = after if decision.action is Action.KEPT else stream.state.adapter
    stream.commit(replace(stream.state, adapter=kept, window=pending_images.empty(spec)))
    return decision


def apply_guard(stream: Stream, decision: Decision) -> None:
    """Apply a guard's decision about the current state. Skipping changes nothing."""
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


def _decide_about_window(stream: Stream, output: StepOutput, after: AdapterState) -> Decision:
    """Keep a step on images that had waited, or skip it. Going back is left to the next request."""
    verdicts = Verdicts(_finite(output), is_finite(after), distance=_distance(stream, after))
    decision = decide(verdicts, stream.policy)
    skipped = decision.rule == "non_finite" or decision.action is Action.SKIPPED
    return replace(decision, action=Action.SKIPPED) if skipped else Decision(Action.KEPT)


def _decide(stream: Stream, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings) -> Decision:
    """Decide about a step. If the request only joins the window, earlier learning is judged."""
    decision = decide(_verdicts(stream, x, output, after, findings), stream.policy)
    return Decision(Action.QUEUED) if after is None and decision.action is Action.KEPT else decision


def _apply(
    stream: Stream, x: Tensor, output: StepOutput, after: AdapterState | None, findings: Findings, decision: Decision,
    generation: int,
) -> tuple[StepOutput, int]:  # fmt: skip
    """Apply the decision about a step. Return the answer, recomputed if the step is thrown away, and its generation."""
    noted = replace(stream.state, monitors=findings.state)
    if decision.action is Action.QUEUED:
        stream.note(replace(noted, window=pending_images.append(noted.window, x, stream.model.bundle.input)))
        return output, generation
    if decision.action is Action.KEPT and after is not None:
        stream.commit(replace(noted, adapter=after))
        return output, generation
    stream.note(noted)
    apply_guard(stream, decision)
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
    """Return the relative distance of a state's learned parameters from the initial ones.

    None if nothing is learned or no rule needs the distance.
    """
    now = learned(state) if stream.policy.distance != "off" else {}
    return float(relative(now, learned(stream.fitted.initial()))) if now else None


def _going_back_helps(stream: Stream, x: Tensor, output: StepOutput) -> bool:
    """Return whether the initial state agrees with the source model on these images clearly more than `output` does."""
    source = stream.model.answer_as_source(x).probabilities
    initial, _ = stream.fitted.step(stream.fitted.initial(), x)
    agreements = [answers.agreement(each.probabilities, source) or 0.0 for each in (initial, output)]
    least = stream.policy.margin / 2 if len(x) >= LEAST_IMAGES else 0.0
    return agreements[0] - agreements[1] > least


def _check_factor(stream: Stream) -> int:
    """Return the factor that thins out source checks; a source stream needs them for its inputs alone."""
    return OWN_ANSWERS if stream.fitted.spec == "source" else 1


def _pausing(stream: Stream) -> str:
    requests = int(stream.state.monitors.pause)
    return f"the guard went back a short time ago, learning pauses for {requests} more requests" if requests else ""


def _predict(stream: Stream, x: Tensor) -> StepOutput:
    """Answer without learning. The source model answers the rows that are not finite."""
    output = stream.fitted.predict(stream.state.adapter, x)
    return output if _finite(output) else _completed(output, stream.model.answer_as_source(x))


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


def _seeing(stream: Stream, x: Tensor, output: StepOutput, after: AdapterState | None, *, wants_source: bool) -> Seeing:
    """Collect the monitors' inputs, with the source model's look at the images if one is requested or due.

    The source model sees all images on request, in shadow mode and after an alarm, and the first ones otherwise.
    """
    drift = output.signals.get("drift")
    look = seen = None
    monitors = stream.state.monitors
    whole = wants_source or stream.mode == "shadow" or bool(monitors.alert)
    if whole or stream_monitors.check_due(monitors):
        look, seen = stream.model.watch.look(monitors.seen, x if whole else x[:LOOKED_AT])
    step = None if after is None else _step_length(stream.state.adapter, after)
    return Seeing(output.probabilities, None if drift is None else float(drift), step, look, seen)


def _step_length(before: AdapterState, after: AdapterState) -> float | None:
    """Return the relative length of a step in the learned parameters; None if they did not move."""
    starts = learned(before)
    return float(relative(learned(after), starts)) or None if starts else None


def _source(stream: Stream, output: StepOutput, seeing: Seeing) -> StepOutput | None:
    """Return the source model's answer if it was computed. A source stream's own answer is the source model's."""
    if stream.fitted.spec == "source":
        return output
    return None if seeing.look is None else _marked(StepOutput(seeing.look.logits, seeing.look.logits.softmax(1), {}))


def _shadowed(adapted: StepOutput, source: StepOutput) -> StepOutput:
    """Answer as the source model does, and keep the adapted stream's signals, except entropy."""
    adapted_signals = {name: signal for name, signal in adapted.signals.items() if name != "entropy"}
    return StepOutput(source.logits, source.probabilities, {**source.signals, **adapted_signals})


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


def _parameter_distances(stream: Stream) -> dict[str, float]:
    """Return how far the learned parameters are from the initial ones; empty if nothing is learned."""
    now, before = learned(stream.state.adapter), learned(stream.fitted.initial())
    if not now:
        return {}
    distances = {"parameter_distance": float(relative(now, before))}
    fisher = stream.fitted.fisher
    return {**distances, "fisher_distance": float(fisher_weighted(now, before, fisher))} if fisher else distances


def _finite(output: StepOutput) -> bool:
    return answers.is_finite(output.probabilities) and answers.is_finite(output.logits)


def reset(stream: Stream) -> None:
    """Return to the state before any batch, as a new generation."""
    stream.begin_again(stream.initial())


def restore(stream: Stream, state: StreamState) -> None:
    """Continue from a stored state, as a new generation."""
    stream.begin_again(state)


def check_serves(stream: Stream, state: StreamState) -> None:
    """Try a request on a state from outside, whose values may make requests fail. The stream does not change.

    Raises:
        UnfitError: If the request fails.
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
