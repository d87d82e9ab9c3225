"""Runs the server as one process until a signal stops it. Then it drains and saves its streams."""

import asyncio
import os
import signal
import socket
from functools import partial
from time import monotonic
from types import FrameType
from typing import cast

import uvicorn

from service.api.middleware.connections import Connections, Patience, most_connections
from service.api.middleware.http_protocol import BoundedProtocol
from service.app import create_app
from service.errors import SettingsError
from service.serving.shutdown import HUNG, Lifecycle, end_when_late
from service.settings import Settings
from service.support.port import Port
from service.telemetry.logs import configure_logging


class DrainingServer(uvicorn.Server):
    """A server that is not ready and takes no requests from the moment it is asked to stop."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, connections: Connections, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._connections = connections
        self._drain_seconds = drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop, ten times a second. Once a second, close connections of slow clients."""
        if counter % 10 == 0:
            self._connections.sweep(monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in order. If a thread hangs, end the process by force, since it would not end by itself."""
        await super().shutdown(sockets)
        if self._lifecycle.hung:
            os._exit(HUNG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's form
        """Begin to drain on SIGTERM or SIGINT. A second SIGINT stops at once.

        Unlike uvicorn's method, this one does not raise the signal again at the end: an orderly stop has exit status 0.
        """
        self._lifecycle.begin_stop()
        if not self.should_exit:
            end_when_late(self._lifecycle, self._drain_seconds)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def run(settings: Settings, port: Port) -> None:
    """Load the models, then serve on a port that is already bound, until SIGTERM or SIGINT.

    Raises:
        SettingsError: If the settings are unsafe, or several worker processes are requested.
        BundleError: If a bundle cannot be served.
    """
    if int(os.environ.get("WEB_CONCURRENCY", "1") or "1") > 1:
        raise SettingsError("WEB_CONCURRENCY asks for several processes, but each would have its own streams; unset it")
    configure_logging()
    app = create_app(settings)
    connections = Connections(most_connections(settings.max_connections))
    patience = Patience(head_seconds=settings.head_seconds, body_rate=settings.min_body_rate)
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(BoundedProtocol, connections=connections, patience=patience)),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
        server_header=False,
    )
    listening = port.hand_over()
    print(f"Acclimate listens on {port.url}", flush=True)  # noqa: T201
    DrainingServer(config, app.state.services.lifecycle, connections, settings.drain_seconds).run(sockets=[listening])
