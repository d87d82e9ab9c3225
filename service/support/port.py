"""The server's port: opened before models load, so that health checks are answered during startup."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType

from service.errors import SettingsError

BACKLOG = 2048
CLIENT_SECONDS = 2.0
LIVE, READY = "/v2/health/live", "/v2/health/ready"


class Port:
    """A listening port. Until `hand_over` it answers health checks, and every other request with 503 and Retry-After.

    Raises:
        SettingsError: If the port cannot be listened on.
    """

    def __init__(self, host: str, number: int) -> None:
        self._socket = _listen(host, number)
        self._server = _StartupServer(self._socket)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="starting")

    @property
    def url(self) -> str:
        """The server's base URL."""
        host, number = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{number}"

    def __enter__(self) -> "Port":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hand_over().close()

    def hand_over(self) -> socket.socket:
        """Stop answering and return the socket. Connections made meanwhile wait in the socket's backlog."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        return self._socket


class _StartupServer(ThreadingHTTPServer):
    """Answers on a socket that is already listening."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.getsockname()[:2], _StartupHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class _StartupHandler(BaseHTTPRequestHandler):
    """Answers one request that arrives during startup."""

    timeout = CLIENT_SECONDS
    server_version, sys_version = "acclimate", ""

    def do_GET(self) -> None:
        answers = {LIVE: (200, {"live": True}), READY: (503, {"ready": False})}
        status, body = answers.get(self.path, (503, {"error": "the server is starting; try again later"}))
        content = json.dumps(body).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        if status != 200:
            self.send_header("Retry-After", "1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_OPTIONS = do_GET  # noqa: N815

    def log_message(self, *_message: object) -> None:
        """Write nothing, because the log is not configured yet."""


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
