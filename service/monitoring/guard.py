"""The guard: a pure decision about a step, from the monitors' verdicts and the stream's policy."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Response: TypeAlias = Literal["off", "skip", "reset", "roll_back", "freeze"]


class Action(StrEnum):
    """The guard's action on a request's step."""

    KEPT = "kept"
    QUEUED = "queued"
    SKIPPED = "skipped"
    RESET = "reset"
    ROLLED_BACK = "rolled_back"
    FROZEN = "frozen"


GUARDED = frozenset({Action.SKIPPED, Action.RESET, Action.ROLLED_BACK})
"""The actions that discard a step."""
ACTIONS = {
    "skip": Action.SKIPPED,
    "reset": Action.RESET,
    "roll_back": Action.ROLLED_BACK,
    "freeze": Action.FROZEN,
}


class Policy(BaseModel):
    """The guard's response to each finding of the monitors. All rules but `non_finite` can be switched off.

    off: only record the event. skip: discard the step. reset: return to the source state. roll_back: return to the
    newest good state, or to the source state if there is none. freeze: roll back, then answer without learning until
    an operator changes the mode.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    collapse: Response = "roll_back"
    """Response if one class takes over the answers while the source model sees others in the same images."""
    harm: Response = "roll_back"
    """Response if the stream must be worse than the source model: inputs look like source data, and it differs from
    the source model more than twice as often as the source model errs. Also if it keeps contradicting a confident
    source model, at any batch size. Ignored if the state before any batch would do no better, because learning is then
    not the cause."""
    non_finite: Literal["skip", "reset", "roll_back", "freeze"] = "skip"
    """Response if an answer or a state holds NaN or infinity. Such a state is never kept."""
    distance: Response = "off"
    """Response if the learned parameters are further than `max_distance` from the source's. `skip` keeps them within
    it."""
    max_distance: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Largest distance of the learned parameters from the source's, relative to the norm of the source's. Streams with
    the usual learning rates stay below 0.15."""
    forgetting: Response = "off"
    """Response if accuracy on the probe set is below the source model's by more than `budget`. Off by default, because
    norm statistics that fit another domain rightly cost accuracy on source images."""
    budget: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Accuracy on the probe set that a stream may lose against the source model."""
    drift_ended: Response = "off"
    """Response if the inputs' statistics return towards the source's."""
    every: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Steps between periodic resets of the stream, as in RDumb; 0 for none."""
    takeover: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Collapse is an excess of more than this: a class's share of the stream's answers minus its share of the source
    model's."""
    margin: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Least difference that counts as harm, on inputs that look like source data: the source model's estimated accuracy
    minus the stream's agreement with it."""
    pause: Annotated[int, Field(ge=0, le=10**6)] = 32
    """Requests without learning after the guard acted. The number doubles with each recent repetition; 0 for none."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The monitors' verdicts on a step. Each text describes a finding; "" means that there is none.

    Attributes:
        finite_answer: Whether the answer is finite.
        finite_state: Whether the state after the step is finite.
        collapse: One class took over the answers.
        harm: The answers must be worse than the source model's.
        drift_ended: The inputs returned towards the source's.
        distance: Distance of the learned parameters from the source's, relative to the norm of the source's; None if
            no parameters are learned or no rule needs it.
        source_gap: Accuracy lost on the probe set against the source model; None unless it was just measured.
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
    """The action, the rule that demands it ("" if no rule fired), and the reason in words."""

    action: Action
    rule: str = ""
    reason: str = ""


def decide(verdicts: Verdicts, policy: Policy) -> Decision:
    """Return the policy's response to the gravest finding that has one; without a finding, keep the step.

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
    """Return the findings as (rule, response, reason), the gravest first."""
    found: list[tuple[str, Response, str]] = []
    if not (verdicts.finite_answer and verdicts.finite_state):
        part = "answer" if verdicts.finite_state else "state"
        found.append(("non_finite", policy.non_finite, f"the step's {part} held NaN or infinity"))
    if verdicts.collapse:
        found.append(("collapse", policy.collapse, verdicts.collapse))
    if verdicts.harm:
        found.append(("harm", policy.harm, verdicts.harm))
    distance = verdicts.distance
    if distance is not None and distance > policy.max_distance:
        excess = f"the learned parameters are {100 * distance:.3g} % from the source's"
        found.append(("distance", policy.distance, f"{excess}, allowed are {100 * policy.max_distance:.3g} %"))
    gap = verdicts.source_gap
    if gap is not None and gap > policy.budget:
        lost = f"{100 * gap:.1f} points of accuracy lost on the probe set, allowed are {100 * policy.budget:.1f}"
        found.append(("forgetting", policy.forgetting, lost))
    if verdicts.drift_ended:
        found.append(("drift_ended", policy.drift_ended, verdicts.drift_ended))
    if policy.every and verdicts.steps >= policy.every:
        found.append(("every", "reset", f"{verdicts.steps} steps since the source state, reset every {policy.every}"))
    return found
