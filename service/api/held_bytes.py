"""Limits the bytes of request bodies in memory, over all requests."""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import SaturatedError

NAME = "acclimate.held"


class HeldBytes:
    """Counts the bytes of one request's body, as part of the bytes of all."""

    def __init__(self, bound: "HeldBound") -> None:
        self._bound = bound
        self.count = 0

    def add(self, count: int) -> None:
        """Add bytes. While no other request holds any, every number is accepted.

        Raises:
            SaturatedError: If together with other requests' bytes there are too many.
        """
        self._bound.check(self.count, count)
        self.count += count
        self._bound.held += count


class HeldBound:
    """Middleware that limits the bytes of all bodies together, from reading until the answer."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and subtract its body's bytes at the end."""
        held = scope[NAME] = HeldBytes(self)
        try:
            await self._app(scope, receive, send)
        finally:
            self.held -= held.count

    def check(self, own: int, more: int) -> None:
        """Check that a request with `own` bytes may hold `more`.

        Raises:
            SaturatedError: If other requests hold bytes, and together there would be too many.
        """
        if self.held > own and self.held + more > self._most:
            said = f"bodies of {self.held} bytes are in memory; with {more} more they exceed {self._most}"
            raise SaturatedError(said)


def hold(request: Request, count: int) -> None:
    """Add bytes to the count of a request's body.

    Raises:
        SaturatedError: If together with other requests' bytes there are too many.
    """
    held: HeldBytes | None = request.scope.get(NAME)
    if held is not None:
        held.add(count)
