"""A stream's log of answered requests, so that a retry with the same id does not adapt twice."""

from collections import OrderedDict
from dataclasses import dataclass

from service.errors import ConflictError
from service.types import InferResponse


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered request: the digest of its body, and what was answered."""

    digest: str
    response: InferResponse

    @property
    def size_bytes(self) -> int:
        """Bytes of the answer's arrays."""
        return sum(array.nbytes for array in self.response.outputs.values())


class RetryLog:
    """The last answers of one stream by request id, bounded in number and bytes."""

    def __init__(self, entries: int, size_bytes: int) -> None:
        self._entries = entries
        self._limit_bytes = size_bytes
        self._bytes = 0
        self._answered: OrderedDict[str, Answered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answered)

    def find(self, request_id: str, digest: str) -> InferResponse | None:
        """Return the first answer to this request, or None if it is new or forgotten.

        Raises:
            ConflictError: If the id was used for another body.
        """
        answered = self._answered.get(request_id)
        if answered is None:
            return None
        if answered.digest != digest:
            raise ConflictError(
                f"request id {request_id!r} was used for another body; expected a new id or the same body"
            )
        return answered.response

    def add(self, digest: str, response: InferResponse) -> None:
        """Keep an answer, unless it is larger than all may be; the oldest leave once they are too many or too large."""
        entry = Answered(digest, response)
        if entry.size_bytes > self._limit_bytes:
            return
        if response.id in self._answered:
            self._bytes -= self._answered.pop(response.id).size_bytes
        self._answered[response.id] = entry
        self._bytes += entry.size_bytes
        while len(self._answered) > self._entries or self._bytes > self._limit_bytes:
            _, dropped = self._answered.popitem(last=False)
            self._bytes -= dropped.size_bytes

    def entries(self) -> tuple[Answered, ...]:
        """Return the answers kept, the oldest first."""
        return tuple(self._answered.values())

    def emptied(self) -> "RetryLog":
        """Return a log of the same bounds without answers."""
        return RetryLog(self._entries, self._limit_bytes)
