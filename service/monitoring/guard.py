"""What to do with a step: a pure decision from what was seen of it, under a stream's policy."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Response: TypeAlias = Literal["off", "skip", "reset", "roll_back", "freeze"]


class Action(StrEnum):
    """What became of a request's learning."""

    KEPT = "kept"
    QUEUED = "queued"
    SKIPPED = "skipped"
    RESET = "reset"
    ROLLED_BACK = "rolled_back"
    FROZEN = "frozen"


GUARDED = frozenset({Action.SKIPPED, Action.RESET, Action.ROLLED_BACK})
"""The actions that throw a step away."""
ACTIONS = {
    "skip": Action.SKIPPED,
    "reset": Action.RESET,
    "roll_back": Action.ROLLED_BACK,
    "freeze": Action.FROZEN,
}


class Policy(BaseModel):
    """What a stream's guard does about what its monitors find; every rule can be switched off.

    off: nothing but the event. skip: the step is thrown away. reset: back to the source state. roll_back: back to the
    newest good state, or to the source state if there is none. freeze: back as by roll_back, and the stream answers
    without learning until an operator says otherwise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    collapse: Response = "roll_back"
    """Where one class takes over the answers, and the source model sees others in the same images."""
    harm: Response = "roll_back"
    """Where inputs look like the source's own, and the stream differs from the source model more than twice as often
    as that errs, so that it must be worse. Also where it contradicts a confident source model for long, at any batch
    size. Left alone if the state before any batch would do no better, since that is no harm of learning."""
    non_finite: Literal["skip", "reset", "roll_back", "freeze"] = "skip"
    """Where an answer or a state holds NaN or infinity; such a state is never kept."""
    distance: Response = "off"
    """Where the learned parameters are further from the source's than allowed. To skip is to hold them within that."""
    max_distance: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Allowed distance of the learned parameters from the source's, as a share of the length of these; streams at
    usual rates stay below 0.15."""
    forgetting: Response = "off"
    """Where the probe set is answered worse than by the source model, by more than the budget. Off: a stream that
    follows another domain answers source images worse by its statistics alone, and rightly."""
    budget: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Accuracy on the probe set that a stream may lose against the source model."""
    drift_ended: Response = "off"
    """Where the inputs' statistics come back towards the source's."""
    every: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Steps after which the stream is reset, again and again, as in RDumb; 0 for never."""
    takeover: Annotated[float, Field(gt=0, le=1)] = 0.4
    """By how much a class's share of the answers exceeds that of the source model's, to be a collapse."""
    margin: Annotated[float, Field(gt=0, le=1)] = 0.05
    """How much less often than the source model is right, on its own domain, a stream agrees with it, at least, where
    that is called harm."""
    pause: Annotated[int, Field(ge=0, le=10**6)] = 32
    """Requests that a stream does not learn from after its guard went back; twice as many each time it does so again
    soon. 0 for none."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was seen of a step; a text says what was found in words, "" for nothing.

    Attributes:
        finite_answer: Whether the answer is finite.
        finite_state: Whether the state after the step is.
        collapse: That one class took over.
        harm: That the answers must be worse than the source model's.
        drift_ended: That the inputs came back.
        distance: Of the learned parameters from the source's, as a share of their length; None where none are learned,
            or no rule asks.
        source_gap: Accuracy lost on the probe set against the source model; None where it was not measured just now.
        steps: Learning steps since the state before any batch.
    """

    finite_answer: bool = True
    finite_state: bool = True
    collapse: str = ""
    harm: str = ""
    drift_ended: str = ""
    distance: float | None = None
    source_gap: float | None = None
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, which rule says so ("" where nothing was found), and why in words."""

    action: Action
    rule: str = ""
    reason: str = ""


def decide(verdicts: Verdicts, policy: Policy) -> Decision:
    """Keep a step, or do what the policy says about the first thing that was found.

    Example:
        >>> decide(Verdicts(finite_state=False), Policy()).action
        <Action.SKIPPED: 'skipped'>
        >>> decide(Verdicts(harm="sure and different"), Policy(harm="reset")).action
        <Action.RESET: 'reset'>
    """
    for rule, response, reason in _found(verdicts, policy):
        if response == "off":
            continue
        return Decision(ACTIONS[response], rule, reason)
    return Decision(Action.KEPT)


def _found(verdicts: Verdicts, policy: Policy) -> list[tuple[str, Response, str]]:
    """Return what was found, the gravest first: rule, response, and why."""
    found: list[tuple[str, Response, str]] = []
    if not (verdicts.finite_answer and verdicts.finite_state):
        what = "answer" if verdicts.finite_state else "state"
        found.append(("non_finite", policy.non_finite, f"the step's {what} held NaN or infinity"))
    if verdicts.collapse:
        found.append(("collapse", policy.collapse, verdicts.collapse))
    if verdicts.harm:
        found.append(("harm", policy.harm, verdicts.harm))
    distance = verdicts.distance
    if distance is not None and distance > policy.max_distance:
        moved = f"the learned parameters are {100 * distance:.3g} % from the source's"
        found.append(("distance", policy.distance, f"{moved}, allowed are {100 * policy.max_distance:.3g} %"))
    gap = verdicts.source_gap
    if gap is not None and gap > policy.budget:
        lost = f"{100 * gap:.1f} points of accuracy lost on the probe set, allowed are {100 * policy.budget:.1f}"
        found.append(("forgetting", policy.forgetting, lost))
    if verdicts.drift_ended:
        found.append(("drift_ended", policy.drift_ended, verdicts.drift_ended))
    if policy.every and verdicts.steps >= policy.every:
        found.append(("every", "reset", f"{verdicts.steps} steps since the source state, reset every {policy.every}"))
    return found
