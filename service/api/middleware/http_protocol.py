"""Uvicorn's HTTP/1.1 protocol, with limits on heads, body framing, pipelining and time."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.middleware.connections import Connections, Patience
from service.api.security_headers import headers_of
from service.telemetry.logs import log

READ_AHEAD = 2**18
"""Bytes of a body to read ahead. With uvicorn's 65,536, reading a batch of images stops and restarts a dozen times,
which takes longer than the rest of the server's work on it."""
MAX_HEAD = 2**16
"""Most bytes of a request's head: its first line, all its headers, and the trailers of a chunked body."""
MAX_HEADERS = 100
MAX_PIPELINED = 16
"""Most requests on one connection that wait for earlier answers."""
FRAMING_SHARE = 8
"""A chunked body may take one byte of framing for so many of its own, beyond MAX_HEAD. Chunks of single bytes would
keep the event loop busy."""
FEW_CHUNKS, LEAST_CHUNK = 2000, 64
"""Beyond FEW_CHUNKS pieces, a body's pieces must have LEAST_CHUNK bytes on average."""
DISCARDED = 2**26
"""Most bytes of a body that are read and dropped after its answer. Most clients read the answer only then."""
LINGER_SECONDS = 5.0
LINGER_BYTES = 2**24
"""Limits on reading from a refused connection. Closing with unread data resets a connection, and its
client would lose the answer. Most clients read an answer only after they have sent everything."""
HEALTH = "/v2/health/"
RETRIED = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer by the protocol itself. The connection ends after it."""

    status: HTTPStatus
    said: str

    def encode(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the whole answer as bytes."""
        body = json.dumps({"error": self.said}).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers_of("/v2"),
        }
        if self.status in RETRIED:
            headers["Retry-After"] = "1"
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}".encode()]
        lines += [name + b": " + value for name, value in default_headers]
        lines += [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
        return b"\r\n".join([*lines, b"", body])


class RefusedError(Exception):
    """Stops the parser from within one of its callbacks."""


async def answer_full(_scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer 503: the server has too many connections."""
    headers = {"Content-Type": "application/json", "Connection": "close", "Retry-After": "1", **headers_of("/v2")}
    body = json.dumps({"error": "the server has as many connections as it may; try again later"}).encode()
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 503, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class BoundedProtocol(HttpToolsProtocol):
    """A connection that reads further ahead than uvicorn's, and that limits the work a client can cause.

    The parser keeps a header until it is complete, so bytes are counted as they arrive, not only with whole headers.
    """

    def __init__(
        self,
        *arguments: Any,
        connections: Connections | None = None,
        patience: Patience | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._table = Connections(2**31) if connections is None else connections
        self._patience = patience or Patience()
        self._in_head = self._in_body = False
        self._messages_begun = 0  # messages that began in the data being parsed
        self._piece_body = 0  # bytes of bodies in that data
        self._head_bytes = self._headers = self._framing = self._body_bytes = self._chunks = 0
        self._unanswered = 0  # requests without a complete answer; the first one is being answered
        self._since = self.loop.time()  # when the head or the body began
        self._unread, self._unread_since = 0, self._since  # bytes of answers that the client has not read
        self._refusal: Refusal | None = None
        self._refused = False
        self._discarded = 0

    # The connection

    def connection_made(self, transport: Any) -> None:
        """Serve a new connection, or refuse it if there are too many."""
        super().connection_made(transport)
        self._since = self.loop.time()
        admission = self._table.admit(self)
        if admission == "refused":
            self._refused = True
            transport.abort()
        elif admission == "overflow":
            self.app = self._health_or_full

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the table."""
        self._table.forget(self)
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close the connection to make room. No request is running on it."""
        self._refused = True
        self.transport.close()

    def check(self, now: float) -> None:
        """Close if the client takes too long to send a head or a body, or reads nothing of an answer."""
        if self._refused or self.transport.is_closing():
            return
        if self._in_body:
            self._check_body(now)
        elif self._in_head or not self._unanswered:
            self._check_head(now)
        self._check_unread(now)

    def _check_head(self, now: float) -> None:
        seconds = self._patience.head_seconds
        if now - self._since <= seconds:
            return
        if self._in_head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request's head did not end within {seconds:g} s")
        else:
            self.evict()

    def _check_body(self, now: float) -> None:
        if self.flow.read_paused:
            self._since = min(now, self._since + 1.0)  # pauses of the server do not count against the client
            return
        beyond = now - self._since - self._patience.grace_seconds
        if self._body_bytes < beyond * self._patience.body_rate:
            came = f"{self._body_bytes} bytes of the body came in {now - self._since:.0f} s"
            expected = f"at least {self._patience.body_rate:g} bytes per second are expected"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"{came}; {expected}")

    def _check_unread(self, now: float) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread != self._unread or not unread:
            self._unread, self._unread_since = unread, now
        elif now - self._unread_since > self._patience.stall_seconds:
            self._refused = True
            self.transport.abort()

    # Data from the client

    def data_received(self, data: bytes) -> None:
        """Parse the data, unless an earlier request was refused."""
        self._unset_keepalive_if_required()
        if self._is_refused():
            self._discard(len(data))
            return
        was_idle = not (self._in_head or self._in_body)
        self._messages_begun = self._piece_body = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it was answered like any request, since no other protocol is supported
        except httptools.HttpParserError as error:
            if not self._is_refused():
                self._refuse(HTTPStatus.BAD_REQUEST, f"the request is not HTTP/1.1: {_reason(error)}")
            return
        self._count_framing(len(data) - self._piece_body, was_idle=was_idle)

    def _count_framing(self, spent: int, *, was_idle: bool) -> None:
        """Count the bytes outside of bodies. If data holds parts of several messages, only complete headers count."""
        if self._messages_begun == 0:
            self._framing += spent
        else:
            self._framing = spent if self._messages_begun == 1 and was_idle else 0
        if (self._in_head or self._in_body) and self._framing > MAX_HEAD + self._body_bytes // FRAMING_SHARE:
            self._refuse_framing()

    def _refuse_framing(self) -> None:
        if self._in_head:
            self._refuse_head()
        else:
            said = (
                f"the body's chunks are too small, or their extensions too long; chunks of {LEAST_CHUNK} bytes at least"
            )
            self._refuse(HTTPStatus.BAD_REQUEST, f"{said} are expected")

    def _refuse_head(self) -> None:
        said = f"the request's head holds more than {MAX_HEAD} bytes or {MAX_HEADERS} headers"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{said}; send fewer or shorter ones")

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self.transport.abort()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Begin a request, unless too many wait on this connection."""
        if len(self.pipeline) >= MAX_PIPELINED:
            said = f"{MAX_PIPELINED} requests wait on this connection; send the next one when they are answered"
            self._in_head = True
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, said)
            raise RefusedError
        super().on_message_begin()
        self._messages_begun += 1
        self._in_head = True
        self._head_bytes = self._headers = self._body_bytes = self._chunks = 0
        self._discarded = 0
        self._since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Accept a piece of the request's path and query."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Accept a header. A trailer after the body is counted and dropped."""
        self._headers += 1
        self._count_head(len(name) + len(value) + len(b": \r\n"))
        if self._in_head:
            super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD or self._headers > MAX_HEADERS:
            self._refuse_head()
            raise RefusedError

    def on_headers_complete(self) -> None:
        """Start to answer the request."""
        super().on_headers_complete()
        self._in_head, self._in_body = False, True
        self._unanswered += 1
        self._since = self.loop.time()
        self._table.works(self)

    def on_body(self, body: bytes) -> None:
        """Accept a piece of a body; keep reading unless too much data or a pipelined request waits."""
        self._piece_body += len(body)
        self._body_bytes += len(body)
        self._chunks += 1
        if self._chunks > FEW_CHUNKS + self._body_bytes // LEAST_CHUNK:
            self._refuse_framing()
            raise RefusedError
        super().on_body(body)
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > DISCARDED:
                self._refused = True
                self.transport.abort()
        elif not self.pipeline and len(self.cycle.body) < READ_AHEAD:
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """Finish reading a request."""
        super().on_message_complete()
        self._in_body = False
        self._note_waiting()

    # Answers

    def on_response_complete(self) -> None:
        """Start the next request, or send the refusal that waited for earlier answers."""
        self._unanswered -= 1
        super().on_response_complete()
        if self._refusal is not None and not self._unanswered:
            self._write(self._refusal)
        self._note_waiting()

    def send_400_response(self, msg: str) -> None:
        """Answer with the standard error body."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    async def _health_or_full(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve health checks, and answer everything else with 503."""
        is_health = scope["type"] == "http" and scope["path"].startswith(HEALTH)
        app: ASGI3Application = self.config.loaded_app if is_health else answer_full
        await app(scope, receive, send)

    def _is_refused(self) -> bool:
        return self._refused or self._refusal is not None

    def _note_waiting(self) -> None:
        if not (self._in_head or self._in_body or self._unanswered):
            self._since = self.loop.time()
            self._table.waits(self)

    def _refuse(self, status: HTTPStatus, said: str) -> None:
        """Answer a request that is not read to its end, after all earlier answers, and end the connection."""
        refusal = Refusal(status, said)
        if self._in_body and self.cycle.response_complete:
            self.evict()
            return
        if self._in_body:
            self._abandon()
        if self._unanswered:
            self._refusal = refusal
        else:
            self._write(refusal)

    def _abandon(self) -> None:
        """Detach the application from the request whose body is being read."""
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
        elif self.cycle.response_started:
            self.transport.abort()  # half an answer was sent, and nothing can follow it
        self._unanswered -= 1
        self.cycle.disconnected = self.cycle.response_complete = True
        self.cycle.message_event.set()

    def _write(self, refusal: Refusal) -> None:
        """Write a refusal, and keep reading for a moment: closing with unread data would lose it."""
        self._refused, self._refusal = True, None
        client = self.client[0] if self.client else ""
        log.info("request_refused", client=client, status=refusal.status.value, reason=refusal.said)
        if self.transport.is_closing():
            return
        self.transport.write(refusal.encode(self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._table.waits(self)
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _reason(error: BaseException) -> str:
    """Return the parser's reason for refusing a request, in one line."""
    return f"{error}"[:200] or type(error).__name__
