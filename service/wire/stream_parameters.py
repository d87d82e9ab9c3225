"""The parameters of a V2 request that name its stream and its timeout."""

import math
from dataclasses import dataclass

from service.errors import MalformedError, UnfitError
from service.support.storable_text import storable
from service.types import InferRequest

MICROSECONDS = 1_000_000
MAX_REQUEST_ID = 256


@dataclass(frozen=True, slots=True)
class Sequence:
    """A request's stream id and its start and end flags. Both flags are False if the request names no stream."""

    stream_id: str
    start: bool
    end: bool


def sequence_of(request: InferRequest, header: str) -> Sequence:
    """Read the stream id and the two flags. The ids 7 and "7" are equal; 0, "0" and "" name no stream.

    Args:
        request: A parsed request.
        header: The stream id from the header `X-Stream-Id`; "" for none.

    Raises:
        UnfitError: If the request id is too long or cannot be stored, or a parameter has the wrong type.
        MalformedError: If the parameter and the header name different streams.
    """
    sequence_id = request.parameters.get("sequence_id", "")
    if isinstance(sequence_id, bool | float):
        raise UnfitError(f"sequence_id is {sequence_id!r}, expected a string or an integer")
    if len(request.id) > MAX_REQUEST_ID:
        raise UnfitError(f"the request id has {len(request.id)} characters, expected at most {MAX_REQUEST_ID}")
    if not storable(request.id):
        raise UnfitError(f"the request id is {request.id!r}, expected a text without NUL and lone surrogates")
    stream_id, header = ("" if text == "0" else text for text in (str(sequence_id), header))
    if header and stream_id and header != stream_id:
        raise MalformedError(
            f"sequence_id is {stream_id[:200]!r} and X-Stream-Id is {header[:200]!r}; expected one of them"
        )
    flags = [request.parameters.get(name, False) for name in ("sequence_start", "sequence_end")]
    wrong = [flag for flag in flags if not isinstance(flag, bool)]
    if wrong:
        raise UnfitError(f"sequence_start or sequence_end is {wrong[0]!r}, expected true or false")
    named = stream_id or header
    return Sequence(named, start=bool(named and flags[0]), end=bool(named and flags[1]))


def timeout_of(request: InferRequest) -> float:
    """Return how many seconds a request may wait for its turn; infinity if it has no timeout.

    Raises:
        UnfitError: If the timeout is not a whole number of microseconds, or the request has a priority.
    """
    priority = request.parameters.get("priority", 0)
    if priority != 0:
        raise UnfitError(
            f"priority is {priority!r}; priorities are not served: each stream's requests are answered in their order"
        )
    timeout = request.parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise UnfitError(f"timeout is {timeout!r}, expected a whole number of microseconds, 0 for none")
    return timeout / MICROSECONDS if timeout else math.inf
