"""The whole of adaptation: one request in one stream, read from top to bottom."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.base import StepOutput
from adapters.functional.entropy import entropy_of_probabilities
from adapters.state import is_finite
from service import window
from service.guard import Action, Verdicts, decide
from service.streams import SourceCheck, Stream, StreamState


@dataclass(frozen=True, slots=True)
class Served:
    """An answer and the facts about it.

    Attributes:
        output: What the client gets.
        action: What became of the request's learning.
        waited: What became of the step on the images that waited before it; None if none was due.
        answered_generation: The generation that the answer was computed from.
        signals: Entropy, drift, selected share and source agreement, as plain numbers.
        source: The source model's probabilities (N, C), where they were computed.
    """

    output: StepOutput
    action: Action
    waited: Action | None
    answered_generation: int
    signals: dict[str, float]
    source: Tensor | None


def serve(stream: Stream, x: Tensor, *, wants_source: bool, source_check_every: int) -> Served:
    """Answer x (N, C, H, W) and adapt the stream; within `stream.unchanged_on_failure` it happens or does not."""
    waited = None
    if stream.mode != "frozen" and (stream.window_full or len(x) >= stream.adapt_batch_size):
        waited = adapt_window(stream)
    answered_generation = stream.generation
    if stream.mode == "frozen":
        output, action, after = _predict(stream, x), Action.FROZEN, None
    elif len(x) < stream.adapt_batch_size:
        output, action, after = _predict(stream, x), Action.QUEUED, None
    else:
        output, action, after = _learn(stream, x)
    source = _source(stream, x, output, wants_source, source_check_every)
    answer = _shadowed(output, source) if stream.mode == "shadow" and source is not None else output
    check = _source_check(stream, output, source)
    if action is Action.QUEUED:
        stream.enqueue(window.append(stream.state.window, x, stream.model.bundle.input))
    if after is not None:
        stream.commit(after)
    stream.requests += 1
    stream.source_check = check
    stream.signals = _signals(answer, check)
    return Served(
        answer, action, waited, answered_generation, dict(stream.signals), source.probabilities if source else None
    )


def adapt_window(stream: Stream) -> Action | None:
    """Learn from the images that wait, in one step; None if there are none."""
    if not len(stream.state.window):
        return None
    spec = stream.model.bundle.input
    _, action, after = _learn(stream, window.images(stream.state.window, spec))
    emptied = StreamState((after or stream.state).adapter, window.empty(spec))
    stream.commit(emptied)
    return action


def _learn(stream: Stream, x: Tensor) -> tuple[StepOutput, Action, StreamState | None]:
    """Step, and keep the result only if it is sound; else answer from the state that is kept."""
    output, after = stream.fitted.step(stream.state.adapter, x)
    action = decide(Verdicts(finite_answer=_finite(output), finite_state=is_finite(after)))
    if action is Action.KEPT:
        return output, action, replace(stream.state, adapter=after)
    return _predict(stream, x), action, None


def _predict(stream: Stream, x: Tensor) -> StepOutput:
    """Answer without learning; by the source model if even that is not finite."""
    output = stream.fitted.predict(stream.state.adapter, x)
    return output if _finite(output) else stream.model.answer_as_source(x)


def _source(stream: Stream, x: Tensor, output: StepOutput, wants: bool, every: int) -> StepOutput | None:
    """Run the source model where it is asked for, shadowed, or due; a plain source stream is its own source."""
    if stream.fitted.spec == "source":
        return output
    due = stream.source_check is None or stream.requests % every == 0
    return stream.model.answer_as_source(x) if wants or due or stream.mode == "shadow" else None


def _shadowed(adapted: StepOutput, source: StepOutput) -> StepOutput:
    """Answer as the source model; what was learned beside it shows in the signals."""
    beside = {name: signal for name, signal in adapted.signals.items() if name != "entropy"}
    return StepOutput(source.logits, source.probabilities, {**source.signals, **beside})


def _source_check(stream: Stream, output: StepOutput, source: StepOutput | None) -> SourceCheck | None:
    if source is None:
        last = stream.source_check
        return None if last is None else SourceCheck(last.agreement, last.age + 1)
    equal = output.probabilities.argmax(1) == source.probabilities.argmax(1)
    return SourceCheck(float(equal.float().mean()), 0)


def _signals(answer: StepOutput, check: SourceCheck | None) -> dict[str, float]:
    signals = {name: float(signal) for name, signal in answer.signals.items()}
    signals["entropy"] = float(entropy_of_probabilities(answer.probabilities).mean())
    if check is not None:
        signals |= {"source_agreement": check.agreement, "source_age": float(check.age)}
    return signals


def _finite(output: StepOutput) -> bool:
    return bool(torch.isfinite(output.probabilities).all() and torch.isfinite(output.logits).all())


def reset(stream: Stream) -> None:
    """Return to the state before any batch; a new generation."""
    stream.begin_again(stream.initial())


def restore(stream: Stream, adapter: AdapterState, waiting: Tensor) -> None:
    """Continue from a stored state; a new generation."""
    stream.begin_again(StreamState(adapter, waiting))
