"""Names each request's caller for the event log, and logs refusals."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.storage.event_log import EventLog
from service.support.token_bucket import Buckets
from service.telemetry.caller import CALLER
from service.types import Happening

REFUSED = frozenset({401, 403})
A_SECOND, BURST_SECONDS = 1.0, 10.0
"""Refusals logged per second for each client address, and the burst in seconds; a flood cannot fill the log."""
MAX_PATH = 200


class Audit:
    """Middleware that names each request's caller, and adds refusals to the event log."""

    def __init__(self, app: ASGIApp, events: EventLog) -> None:
        self._app = app
        self._events = events
        self._buckets = Buckets(A_SECOND, BURST_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its client's address as the caller, until a key names it better."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else "somebody"

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in REFUSED:
                self._log_refusal(scope, address, message["status"])
            await send(message)

        token = CALLER.set(address)
        try:
            await self._app(scope, receive, watched)
        finally:
            CALLER.reset(token)

    def _log_refusal(self, scope: Scope, address: str, status: int) -> None:
        if not self._buckets.take(address):
            said = f"{scope['method']} {scope['path'][:MAX_PATH]} by {address}: {status}"
            self._events.add(Happening("refused", said, figures={"status": float(status)}))
