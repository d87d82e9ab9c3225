"""Answers requests that a stop of the server interrupts with 503, so that their clients send them again."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.errors import SaturatedError

SAID = "the server stops, and the time to drain is over; send the request again, with the same id if it has one"


class InterruptedByStop:
    """Middleware that answers cancelled requests. Uvicorn cancels them when the drain time is over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer 503 if it is cancelled before its answer has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if started:
                raise
            await problems.answer(SaturatedError(SAID))(scope, receive, send)
