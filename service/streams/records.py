"""What a stream leaves in the store: its row in the catalogue, and its events."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log; ids rise by one."""

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
        id, model, fingerprint, adapter, durability: What it is.
        settings: JSON of options, mode, guard and adaptation batch.
        figures: JSON of counts that are shown.
        generation: The last durable one.
        ceiling: No process has made a generation beyond this one; equal to `generation` unless a process claims it.
        epoch: Rises with each claim.
        blob: Where the state is; "" for the one before any batch.
        reserved: How the names of the next blobs begin, with the token of the process that claimed the stream first.
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
        """The generation that the stream goes on from once it is brought back."""
        return max(self.ceiling, self.generation)
