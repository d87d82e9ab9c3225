"""Bytes of request bodies that are in memory, over all requests."""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import SaturatedError

NAME = "acclimate.held"


class HeldBytes:
    """Bytes of one request's body, counted among those of all."""

    def __init__(self, bound: "HeldBound") -> None:
        self._bound = bound
        self.count = 0

    def add(self, count: int) -> None:
        """Count bytes in; the body of a request by itself always fits.

        Raises:
            SaturatedError: If there are too many with those of other requests.
        """
        self._bound.check(self.count, count)
        self.count += count
        self._bound.held += count


class HeldBound:
    """Middleware that bounds the bytes of all bodies together, from their reading to their answers."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and count out its body in the end."""
        held = scope[NAME] = HeldBytes(self)
        try:
            await self._app(scope, receive, send)
        finally:
            self.held -= held.count

    def check(self, own: int, more: int) -> None:
        """Refuse more bytes to a request that holds some of its own already.

        Raises:
            SaturatedError: If other requests hold bytes, and these with them are too many.
        """
        if self.held > own and self.held + more > self._most:
            said = f"bodies of {self.held} bytes are in memory; with {more} more they exceed {self._most}"
            raise SaturatedError(said)


def hold(request: Request, count: int) -> None:
    """Count bytes of a request's body in.

    Raises:
        SaturatedError: If there are too many with those of other requests.
    """
    held: HeldBytes | None = request.scope.get(NAME)
    if held is not None:
        held.add(count)
