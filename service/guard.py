"""What to do with a step: a pure decision from what was seen of it."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What became of a request's learning."""

    KEPT = "kept"
    QUEUED = "queued"
    SKIPPED = "skipped"
    RESET = "reset"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was seen of a step."""

    finite_answer: bool
    finite_state: bool


def decide(verdicts: Verdicts) -> Action:
    """Keep a step, or skip it: a state or an answer that is not finite is never kept.

    Example:
        >>> decide(Verdicts(finite_answer=True, finite_state=False))
        <Action.SKIPPED: 'skipped'>
    """
    return Action.KEPT if verdicts.finite_answer and verdicts.finite_state else Action.SKIPPED
