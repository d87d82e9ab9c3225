"""The ring of good states that a guard may roll back to: few, of different ages, bounded in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from adapters import AdapterState
from adapters.state import flatten
from service.streams.disk_spill import Spill, Spilled

AGES = (1, 16, 256)
"""Target ages of the kept states, in steps behind the newest. The first is the newest state itself."""
SLACK = 2
"""A state that is older than SLACK times its target age is replaced by the next younger one."""


@dataclass(frozen=True, slots=True, eq=False)
class GoodState:
    """An adapter state that passed the probe, its step count and generation, and its accuracy on the probe set.

    `holds_inputs` is set if the state contains images.
    """

    adapter: AdapterState | Spilled
    steps: int
    generation: int
    accuracy: float
    holds_inputs: bool = False

    def state(self, like: AdapterState) -> AdapterState | None:
        """Return the adapter state, read from its file if it was spilled; None if the file is lost."""
        return self.adapter.read(like) if isinstance(self.adapter, Spilled) else self.adapter


@dataclass(frozen=True, slots=True)
class GoodStates:
    """A ring of at most three good states, newest first, with at most `limit_bytes` in memory.

    Tensors shared by several states count once. Beyond the limit the oldest states move to `spill`; without one they
    are dropped.
    """

    limit_bytes: int
    spill: Spill | None = None
    kept: tuple[GoodState, ...] = ()

    def with_newest(self, good: GoodState) -> "GoodStates":
        """Return the ring with a newer state.

        For each greater target age the ring keeps the oldest state that is not too old for it. If all are too old, as
        when good states are rare, it keeps the youngest.
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
        """Return the ring without its newest state, so that the next rollback goes further back."""
        return replace(self, kept=self.kept[1:])

    def emptied(self) -> "GoodStates":
        """Return an empty ring with the same limits."""
        return replace(self, kept=())

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return _size_bytes(self.kept)

    def _within(self, states: list[GoodState]) -> tuple[GoodState, ...]:
        """Spill the oldest states until the rest are within the limit."""
        for index in reversed(range(len(states))):
            if _size_bytes(states) <= self.limit_bytes:
                break
            spilled = self._spilled(states[index])
            states[index : index + 1] = [] if spilled is None else [spilled]
        return tuple(states)

    def _spilled(self, good: GoodState) -> GoodState | None:
        if isinstance(good.adapter, Spilled):
            return good
        may_be_written = self.spill is not None and not (good.holds_inputs and self.spill.drop_inputs)
        spilled = self.spill.put(good.adapter) if self.spill is not None and may_be_written else None
        return None if spilled is None else replace(good, adapter=spilled)


def _size_bytes(states: "tuple[GoodState, ...] | list[GoodState]") -> int:
    return sum(tensor.nbytes for tensor in _apart(states))


def _apart(states: "tuple[GoodState, ...] | list[GoodState]") -> Iterator[Tensor]:
    """Yield each tensor in memory once, even if several states share it."""
    seen: set[int] = set()
    for state in states:
        tensors = {} if isinstance(state.adapter, Spilled) else flatten(state.adapter)
        for tensor in tensors.values():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                yield tensor
