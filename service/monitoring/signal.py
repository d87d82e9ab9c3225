"""The descriptor of a signal: one number that is recorded for each stream."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["share", "nats", "variances", "milliseconds", "seconds", "requests", "ratio"]
Better: TypeAlias = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Signal:
    """The descriptor of a signal. API, metrics, history, dashboard and documentation use it.

    Attributes:
        name: Its name in the API and the history, and its value of the label `signal` in `/metrics`.
        label: A heading for people.
        unit: Its unit. A `share` lies between 0 and 1; a `ratio` can be any number.
        better: Which direction is good.
        meaning: An explanation in one or two sentences.
        charted: Whether the history records it and the dashboard draws it.
    """

    name: str
    label: str
    unit: Unit
    better: Better
    meaning: str
    charted: bool = True
