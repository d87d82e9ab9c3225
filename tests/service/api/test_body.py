"""Bodies on their way in: as they come, within bounds, into memory that tensors can stay in."""

import asyncio

import numpy as np
import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

from service.api.middleware.body import ALIGNMENT, read_aligned
from service.api.middleware.http_protocol import READ_AHEAD, BoundedProtocol
from service.errors import MalformedError, TooLargeError

MOST = 1000


def read(chunks, declared=None, lead=0):
    """Read a body that comes in chunks, with the length that it declares or none."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    headers = [] if declared is None else [(b"content-length", str(declared).encode())]

    async def receive():
        return messages.pop(0)

    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(read_aligned(request, MOST, lead))


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(0, 70), st.booleans())
def test_a_body_is_what_came_and_what_follows_its_lead_is_aligned_and_its_own(chunks, lead, declares):
    whole = b"".join(chunks)

    body = read(chunks, len(whole) if declares else None, lead)

    assert bytes(body) == whole
    assert not body.readonly
    if len(whole) > lead:
        assert np.frombuffer(body[lead:], np.uint8).ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize(("length", "came"), [(3, 4), (5, 4), (1, 0)])
def test_a_body_of_another_length_than_it_declares_is_refused(length, came):
    with pytest.raises(MalformedError, match=f"the body has {came} bytes, expected {length} as Content-Length says"):
        read([b"x" * came], length)


@pytest.mark.parametrize("declared", [MOST + 1, None])
def test_a_body_beyond_the_bound_is_refused(declared):
    with pytest.raises(TooLargeError, match="1000"):
        read([b"x" * 600, b"x" * 401], declared)


class Transport(asyncio.Transport):
    """A connection's other side, which notes whether it is read from."""

    reading = True

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def get_extra_info(self, _name, default=None):
        return default

    def is_closing(self):
        return False

    def write(self, data):
        pass


class Connection:
    """A connection to an application that takes pieces of a body when it is told to."""

    def __init__(self):
        self.transport, self.wanted, self.bodies = Transport(), asyncio.Semaphore(0), []
        config = Config(self.app, interface="asgi3", lifespan="off", access_log=False)
        config.load()
        self.protocol = BoundedProtocol(config, ServerState(), {})
        self.protocol.connection_made(self.transport)

    async def app(self, _scope, receive, send):
        more, body = True, b""
        while more:
            await self.wanted.acquire()
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def take(self):
        self.wanted.release()
        await asyncio.sleep(0.01)

    def send(self, data):
        self.protocol.data_received(data)


def post(length):
    return f"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_body_is_read_ahead_up_to_a_bound_and_on_once_the_application_takes_it():
    async def play():
        connection = Connection()
        connection.send(post(2 * READ_AHEAD) + b"a" * (READ_AHEAD - 1))
        known = [connection.transport.reading]
        connection.send(b"b")
        known.append(connection.transport.reading)
        await connection.take()
        await connection.take()
        known.append(connection.transport.reading)
        connection.send(b"c" * READ_AHEAD)
        await connection.take()
        return known, connection.bodies

    known, bodies = asyncio.run(play())

    assert known == [True, False, True]
    assert bodies == [b"a" * (READ_AHEAD - 1) + b"b" + b"c" * READ_AHEAD]


def test_a_request_that_comes_before_the_last_is_answered_is_not_read_on_and_comes_after_it():
    async def play():
        connection = Connection()
        connection.send(post(3) + b"one" + post(3) + b"two")
        early = connection.transport.reading
        await connection.take()
        await connection.take()
        return early, connection

    early, connection = asyncio.run(play())

    assert not early
    assert connection.bodies == [b"one", b"two"]
    assert connection.transport.reading
