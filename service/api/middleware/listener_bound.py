"""Limits the number of listeners: requests for live updates, whose answers do not end by themselves."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.errors import SaturatedError

ENDLESS = ("/v1/events/live", "/v1/overview/live")


class ListenerBound:
    """Middleware that answers 503 to too many listeners, since each of them holds a connection."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; if it is a listener, count it while it is answered."""
        if scope["type"] != "http" or not _listens(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self._count >= self._most:
            error = SaturatedError(f"{self._count} clients listen to what happens, as many as allowed")
            await problems.answer(error)(scope, receive, send)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1


def _listens(path: str) -> bool:
    return path in ENDLESS or (path.startswith("/v1/streams/") and path.endswith("/history/live"))
