"""A stream's records in the store: its row in the catalogue, and its events."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the event log; ids rise by one."""

    id: int
    time: float
    kind: str
    stream: str
    model: str
    action: str
    reason: str
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Record:
    """A stream in the catalogue.

    Attributes:
        id, model, fingerprint, adapter, durability: The stream's identity and kind.
        settings: JSON of options, mode, guard and adaptation batch.
        figures: JSON of counts for display.
        generation: The last durable generation.
        ceiling: Highest generation that any process may have reached; equal to `generation` without a claim.
        epoch: Rises with each claim.
        blob: Name of the state's blob; "" for the state before any batch.
        reserved: Name prefix of the next blobs, with the token of the process that claimed the stream first.
        created, last_used: Unix seconds.
    """

    id: str
    model: str
    fingerprint: str
    adapter: str
    durability: str
    settings: str
    figures: str
    generation: int
    ceiling: int
    epoch: int
    blob: str
    reserved: str
    created: float
    last_used: float

    @property
    def newest(self) -> int:
        """The generation that the stream continues from once it is loaded again."""
        return max(self.ceiling, self.generation)
