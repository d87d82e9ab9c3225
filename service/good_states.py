"""The ring of good states that a guard may roll back to: few, of different ages, bounded in bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from adapters import AdapterState
from adapters.state import flatten

AGES = (1, 16, 256)
"""Steps behind the newest that the kept ones are about, the first being the newest itself."""
SLACK = 2
"""Times its age after which a state leaves, and the next younger one begins to take its place."""


@dataclass(frozen=True, slots=True, eq=False)
class GoodState:
    """An adapter's state that passed the probe, the step that it is after, and its accuracy there."""

    adapter: AdapterState
    steps: int
    generation: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class GoodStates:
    """A ring of at most three, the newest first, in at most `limit_bytes`; tensors that several share count once."""

    limit_bytes: int
    kept: tuple[GoodState, ...] = ()

    def with_newest(self, good: GoodState) -> "GoodStates":
        """Return the ring with a newer state: besides it, for each greater age, the oldest that is not too old for it.

        Where all are too old, as states come seldom, it is the youngest of them.
        """
        others = [other for other in self.kept if other.steps < good.steps]
        chosen: list[GoodState] = []
        for age in reversed(AGES[1:]):
            if others:
                young = [other for other in others if good.steps - other.steps <= SLACK * age]
                chosen.append(young[-1] if young else others[0])
                others = [other for other in others if other is not chosen[-1]]
        newest_first = sorted(chosen, key=lambda other: -other.steps)
        return GoodStates(self.limit_bytes, self._within([good, *newest_first]))

    def without_newest(self) -> "GoodStates":
        """Return the ring without the state that was gone back to, so that the next way back leads further."""
        return GoodStates(self.limit_bytes, self.kept[1:])

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors in it."""
        return sum(tensor.nbytes for tensor in _apart(self.kept))

    def _within(self, states: list[GoodState]) -> tuple[GoodState, ...]:
        while states and sum(tensor.nbytes for tensor in _apart(tuple(states))) > self.limit_bytes:
            states.pop()
        return tuple(states)


def _apart(states: tuple[GoodState, ...]) -> Iterator[Tensor]:
    """Yield each tensor once, whoever shares it."""
    seen: set[int] = set()
    for state in states:
        for tensor in flatten(state.adapter).values():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                yield tensor
