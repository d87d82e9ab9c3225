"""A stream's log of answered requests, so that a retry does not adapt the stream twice."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import ConflictError
from service.types import InferResponse


class RequestIdentity(NamedTuple):
    """Identity of a request on its stream: its id, its idempotency key ("" for none), its body's digest."""

    id: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The identity of an answered request, and its answer."""

    identity: RequestIdentity
    response: InferResponse

    @property
    def size_bytes(self) -> int:
        """Bytes of the answer's arrays."""
        return sum(array.nbytes for array in self.response.outputs.values())


class RetryLog:
    """The latest answers of one stream, bounded in number and bytes.

    One id may be used for several bodies: clients count from 1 or send a constant. A key is good for one body.
    """

    def __init__(self, entries: int, size_bytes: int) -> None:
        self._entries = entries
        self._limit_bytes = size_bytes
        self._bytes = 0
        self._answered: OrderedDict[RequestIdentity, Answered] = OrderedDict()
        self._of_key: dict[str, RequestIdentity] = {}
        self._of_body: dict[tuple[str, str], RequestIdentity] = {}  # by id and digest: the newest answer
        self._of_id: dict[str, RequestIdentity] = {}  # the newest answer of any body

    def __len__(self) -> int:
        return len(self._answered)

    def find(self, identity: RequestIdentity, *, held: bool = False) -> InferResponse | None:
        """Return the first answer to this request, or None if the request is new or its answer was dropped.

        Args:
            identity: The request. If it has a key, the key alone decides whether it is a retry.
            held: Refuse an id, like a key, that was used with another body.

        Raises:
            ConflictError: If the key was used for another body, or with `held` the id.
        """
        if identity.key in self._of_key:
            return self._same_body(self._of_key[identity.key], identity, f"the Idempotency-Key {identity.key!r}", "key")
        before = self._of_body.get((identity.id, identity.digest))
        if held and (before or identity.id in self._of_id):
            return self._same_body(before or self._of_id[identity.id], identity, f"request id {identity.id!r}", "id")
        return None if before is None or identity.key else self._answered[before].response

    def add(self, identity: RequestIdentity, response: InferResponse) -> None:
        """Keep an answer unless it exceeds the byte limit by itself. The oldest answers are dropped for it."""
        entry = Answered(identity, response)
        if entry.size_bytes > self._limit_bytes:
            return
        if identity in self._answered:
            self._drop(identity)
        self._answered[identity] = entry
        self._bytes += entry.size_bytes
        self._of_body[identity.id, identity.digest] = self._of_id[identity.id] = identity
        if identity.key:
            self._of_key[identity.key] = identity
        while len(self._answered) > self._entries or self._bytes > self._limit_bytes:
            self._drop(next(iter(self._answered)))

    def entries(self) -> tuple[Answered, ...]:
        """Return the answers kept, the oldest first."""
        return tuple(self._answered.values())

    def emptied(self) -> "RetryLog":
        """Return an empty log with the same limits."""
        return RetryLog(self._entries, self._limit_bytes)

    def _same_body(self, before: RequestIdentity, identity: RequestIdentity, said: str, name: str) -> InferResponse:
        if before.digest != identity.digest:
            raise ConflictError(f"{said} was used for another body; expected a new {name} or the same body")
        return self._answered[before].response

    def _drop(self, identity: RequestIdentity) -> None:
        self._bytes -= self._answered.pop(identity).size_bytes
        self._of_key.pop(identity.key, None)
        if self._of_body[identity.id, identity.digest] == identity:
            del self._of_body[identity.id, identity.digest]
        if self._of_id[identity.id] == identity:
            del self._of_id[identity.id]
