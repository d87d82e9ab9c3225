"""Runs the server as one process until it is told to stop; then it drains and keeps what streams have learned."""

import asyncio
import os
import secrets
import signal
import socket
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import cast

import uvicorn

from service.app import Lifecycle, create_app
from service.connections import Connections, Patience, most_connections
from service.errors import SettingsError
from service.protocol import BoundedProtocol
from service.settings import Settings
from service.telemetry import configure_logging


class DrainingServer(uvicorn.Server):
    """Answers `not ready` and takes no new requests from the moment it is told to stop."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, connections: Connections) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._connections = connections

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop; once a second, end connections whose clients take too long."""
        if counter % 10 == 0:
            self._connections.sweep(monotonic())
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's form
        """Begin to drain on SIGTERM or SIGINT; a second SIGINT does not wait.

        Unlike uvicorn's own, it does not raise the signal again at the end: an orderly stop is exit status 0.
        """
        self._lifecycle.drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingsError: If the settings are unsafe, or several worker processes are asked for.
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
    listening = _listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    print(f"Acclimate listens on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201
    DrainingServer(config, app.state.lifecycle, connections).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def make_key() -> tuple[str, str]:
    """Return a new key and its sha256 in hex."""
    key = secrets.token_urlsafe(32)
    return key, sha256(key.encode()).hexdigest()


def make_first_key(file: Path) -> str | None:
    """Write a keys file with one admin key, unless it is there; return the key, to be shown once.

    Raises:
        SettingsError: If the file cannot be written.
    """
    key, digest = make_key()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    except OSError as error:
        raise SettingsError(f"the keys file {file} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(f"{digest} admin first\n")
    return key
