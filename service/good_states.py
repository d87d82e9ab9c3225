"""The ring of good states that a guard may roll back to: few, of different ages, bounded in bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from adapters import AdapterState
from adapters.state import flatten

AGES = (1, 16, 256)
"""Steps behind the newest that the kept ones are about, the first being the newest itself."""


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
        """Return the ring with a newer state: besides it the newest of each greater age stay, or else the oldest."""
        candidates = [good, *(other for other in self.kept if other.steps < good.steps)]
        chosen: list[GoodState] = []
        for age in AGES:
            old_enough = [other for other in candidates if good.steps - other.steps >= (age if age > 1 else 0)]
            best = old_enough[0] if old_enough else candidates[-1]
            if best not in chosen:
                chosen.append(best)
        return GoodStates(self.limit_bytes, self._within(chosen))

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
