"""A signal: one number that is followed for each stream, and what a reader must know of it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["share", "nats", "variances", "milliseconds", "seconds", "requests", "ratio"]
Better: TypeAlias = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Signal:
    """The descriptor of a signal; API, metrics, history, page and documentation read it.

    Attributes:
        name: As in the API, a column of the history, and the label `signal` of `/metrics`.
        label: A heading for people.
        unit: What it is counted in: a `share` lies between 0 and 1; a `ratio` may be any number.
        better: Which way is good.
        meaning: One or two sentences.
        charted: Whether the history keeps it, and the page draws it.
    """

    name: str
    label: str
    unit: Unit
    better: Better
    meaning: str
    charted: bool = True
