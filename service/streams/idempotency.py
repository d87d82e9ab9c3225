"""A stream's log of answered requests, so that a retry does not adapt twice."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import ConflictError
from service.types import InferResponse


class Asked(NamedTuple):
    """What identifies a request on its stream: its id, its idempotency key ("" for none), its body's digest."""

    id: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered request: what identifies it, and its answer."""

    asked: Asked
    response: InferResponse

    @property
    def size_bytes(self) -> int:
        """Bytes of the answer's arrays."""
        return sum(array.nbytes for array in self.response.outputs.values())


class RetryLog:
    """The last answers of one stream, bounded in number and bytes.

    The same id may stand for several bodies: clients count from 1 or send a constant. A key stands for one.
    """

    def __init__(self, entries: int, size_bytes: int) -> None:
        self._entries = entries
        self._limit_bytes = size_bytes
        self._bytes = 0
        self._answered: OrderedDict[Asked, Answered] = OrderedDict()
        self._of_key: dict[str, Asked] = {}
        self._of_body: dict[tuple[str, str], Asked] = {}  # by id and digest: the newest answer
        self._of_id: dict[str, Asked] = {}  # the newest answer of any body

    def __len__(self) -> int:
        return len(self._answered)

    def find(self, asked: Asked, *, held: bool = False) -> InferResponse | None:
        """Return the first answer to this request, or None if it is new or forgotten.

        Args:
            asked: The request. If it has a key, the key alone decides whether it is a retry.
            held: Whether an id is refused with another body, as a key always is.

        Raises:
            ConflictError: If the key, or an id that is held, was used for another body.
        """
        if asked.key in self._of_key:
            return self._same_body(self._of_key[asked.key], asked, f"the Idempotency-Key {asked.key!r}", "key")
        before = self._of_body.get((asked.id, asked.digest))
        if held and (before or asked.id in self._of_id):
            return self._same_body(before or self._of_id[asked.id], asked, f"request id {asked.id!r}", "id")
        return None if before is None or asked.key else self._answered[before].response

    def add(self, asked: Asked, response: InferResponse) -> None:
        """Keep an answer, unless it is larger than all may be; the oldest leave once they are too many or too large."""
        entry = Answered(asked, response)
        if entry.size_bytes > self._limit_bytes:
            return
        if asked in self._answered:
            self._drop(asked)
        self._answered[asked] = entry
        self._bytes += entry.size_bytes
        self._of_body[asked.id, asked.digest] = self._of_id[asked.id] = asked
        if asked.key:
            self._of_key[asked.key] = asked
        while len(self._answered) > self._entries or self._bytes > self._limit_bytes:
            self._drop(next(iter(self._answered)))

    def entries(self) -> tuple[Answered, ...]:
        """Return the answers kept, the oldest first."""
        return tuple(self._answered.values())

    def emptied(self) -> "RetryLog":
        """Return a log of the same bounds without answers."""
        return RetryLog(self._entries, self._limit_bytes)

    def _same_body(self, before: Asked, asked: Asked, said: str, name: str) -> InferResponse:
        if before.digest != asked.digest:
            raise ConflictError(f"{said} was used for another body; expected a new {name} or the same body")
        return self._answered[before].response

    def _drop(self, asked: Asked) -> None:
        self._bytes -= self._answered.pop(asked).size_bytes
        self._of_key.pop(asked.key, None)
        if self._of_body[asked.id, asked.digest] == asked:
            del self._of_body[asked.id, asked.digest]
        if self._of_id[asked.id] == asked:
            del self._of_id[asked.id]
