"""The ring of good states that a guard may roll back to: few, of different ages, bounded in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from adapters import AdapterState
from adapters.state import flatten
from service.streams.disk_spill import Spill, Spilled

AGES = (1, 16, 256)
"""Steps behind the newest that the kept ones are about, the first being the newest itself."""
SLACK = 2
"""Times its age after which a state leaves, and the next younger one begins to take its place."""


@dataclass(frozen=True, slots=True, eq=False)
class GoodState:
    """An adapter's state that passed the probe, the step that it is after, and its accuracy there.

    `holds_inputs` says whether the state holds images.
    """

    adapter: AdapterState | Spilled
    steps: int
    generation: int
    accuracy: float
    holds_inputs: bool = False

    def state(self, like: AdapterState) -> AdapterState | None:
        """Return the adapter's state, read from its file if it was put aside; None if that is lost."""
        return self.adapter.read(like) if isinstance(self.adapter, Spilled) else self.adapter


@dataclass(frozen=True, slots=True)
class GoodStates:
    """A ring of at most three, the newest first, of which at most `limit_bytes` are in memory.

    Tensors that several share count once. The oldest beyond the limit go to `spill`, or where there is none, they go.
    """

    limit_bytes: int
    spill: Spill | None = None
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
        return replace(self, kept=self._within([good, *newest_first]))

    def without_newest(self) -> "GoodStates":
        """Return the ring without the state that was gone back to, so that the next way back leads further."""
        return replace(self, kept=self.kept[1:])

    def emptied(self) -> "GoodStates":
        """Return the ring before any state."""
        return replace(self, kept=())

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return _size_bytes(self.kept)

    def _within(self, states: list[GoodState]) -> tuple[GoodState, ...]:
        """Put aside from the oldest on until the others are within the limit."""
        for index in reversed(range(len(states))):
            if _size_bytes(states) <= self.limit_bytes:
                break
            aside = self._aside(states[index])
            states[index : index + 1] = [] if aside is None else [aside]
        return tuple(states)

    def _aside(self, good: GoodState) -> GoodState | None:
        if isinstance(good.adapter, Spilled):
            return good
        may_be_written = self.spill is not None and not (good.holds_inputs and self.spill.drop_inputs)
        spilled = self.spill.put(good.adapter) if self.spill is not None and may_be_written else None
        return None if spilled is None else replace(good, adapter=spilled)


def _size_bytes(states: "tuple[GoodState, ...] | list[GoodState]") -> int:
    return sum(tensor.nbytes for tensor in _apart(states))


def _apart(states: "tuple[GoodState, ...] | list[GoodState]") -> Iterator[Tensor]:
    """Yield each tensor in memory once, whoever shares it."""
    seen: set[int] = set()
    for state in states:
        tensors = {} if isinstance(state.adapter, Spilled) else flatten(state.adapter)
        for tensor in tensors.values():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                yield tensor
