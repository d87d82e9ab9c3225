"""The port of a server: taken before anything is loaded, and answered from then on."""

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
    """A port that is taken; until it is handed over, health is answered and everything else is told to come again.

    Raises:
        SettingsError: If the port cannot be listened on.
    """

    def __init__(self, host: str, number: int) -> None:
        self._socket = _listen(host, number)
        self._answering = _Starting(self._socket)
        self._thread = Thread(target=self._answering.serve_forever, args=(0.05,), daemon=True, name="starting")

    @property
    def url(self) -> str:
        """Where it is, as clients name it."""
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
        """Stop answering and return the socket; who connects meanwhile waits."""
        if self._thread.is_alive():
            self._answering.shutdown()
            self._thread.join()
        return self._socket


class _Starting(ThreadingHTTPServer):
    """Answers on a socket that listens already."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.getsockname()[:2], _Answer, bind_and_activate=False)
        self.socket.close()
        self.socket = listening

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that left."""


class _Answer(BaseHTTPRequestHandler):
    """Answers one request of a client that came too early."""

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

    def log_message(self, *_said: object) -> None:
        """Say nothing: the log is not set up yet."""


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
