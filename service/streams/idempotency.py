"""A stream's log of answered requests, so that a retry does not adapt the stream twice."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, eq=False)
class RetryLog:
    """The latest answers of one stream, the oldest first, bounded in number and bytes: an immutable value.

    One id may be used for several bodies: clients count from 1 or send a constant. A key is good for one body.
    A search reads the answers one by one, since they are few.

    Attributes:
        limit: Most answers.
        limit_bytes: Most bytes of the answers' arrays.
        kept: The answers.
        size_bytes: Bytes of their arrays.
    """

    limit: int
    limit_bytes: int
    kept: tuple[Answered, ...] = ()
    size_bytes: int = 0

    def find(self, identity: RequestIdentity, *, held: bool = False) -> InferResponse | None:
        """Return the first answer to this request, or None if the request is new or its answer was dropped.

        Args:
            identity: The request. If it has a key, the key alone decides whether it is a retry.
            held: Refuse an id, like a key, that was used with another body.

        Raises:
            ConflictError: If the key was used for another body, or with `held` the id.
        """
        of_key = self._newest(lambda other: other.key == identity.key) if identity.key else None
        if of_key is not None:
            return _same_body(of_key, identity, f"the Idempotency-Key {identity.key!r}", "key")
        before = self._newest(lambda other: (other.id, other.digest) == (identity.id, identity.digest))
        of_id = before or self._newest(lambda other: other.id == identity.id)
        if held and of_id is not None:
            return _same_body(of_id, identity, f"request id {identity.id!r}", "id")
        return None if before is None or identity.key else before.response

    def with_answer(self, answered: Answered) -> "RetryLog":
        """Return the log with one more answer, unless that exceeds the byte limit by itself.

        The oldest answers are dropped for it.
        """
        if answered.size_bytes > self.limit_bytes:
            return self
        others = [each for each in self.kept if each.identity != answered.identity]
        replaced = [each for each in self.kept if each.identity == answered.identity]
        kept = [*others, answered]
        size = self.size_bytes + answered.size_bytes - sum(each.size_bytes for each in replaced)
        while len(kept) > self.limit or size > self.limit_bytes:
            size -= kept.pop(0).size_bytes
        return replace(self, kept=tuple(kept), size_bytes=size)

    def emptied(self) -> "RetryLog":
        """Return an empty log with the same limits."""
        return RetryLog(self.limit, self.limit_bytes)

    def _newest(self, fits: Callable[[RequestIdentity], bool]) -> Answered | None:
        return next((each for each in reversed(self.kept) if fits(each.identity)), None)


def _same_body(before: Answered, identity: RequestIdentity, said: str, name: str) -> InferResponse:
    if before.identity.digest != identity.digest:
        raise ConflictError(f"{said} was used for another body; expected a new {name} or the same body")
    return before.response
