"""The server's protocol on a real port of loopback, in front of a small application."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from functools import partial

from uvicorn import Config
from uvicorn.server import ServerState

from service.api.middleware.connections import Connections, Patience
from service.api.middleware.http_protocol import BoundedProtocol


async def echo(scope, receive, send):
    """Answer a request with its path, and the length of its body once it is there."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope["state"]["left"].append(scope["path"])
            return
        size, more = size + len(message["body"]), message["more_body"]
    if scope["path"].startswith("/wait"):
        await scope["state"]["go"].wait()
    body = json.dumps([scope["path"][:40], size]).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Listening:
    """A port, the table of its connections, and what the application was given."""

    def __init__(self, port, connections, state):
        self.port, self.connections, self.state = port, connections, state
        self._writers = []

    async def connect(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def close(self):
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def ask(self, *pieces):
        """Send pieces on a connection of their own; return all that is answered until it ends."""
        reader, writer = await self.connect()
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        try:
            return await asyncio.wait_for(reader.read(), 20)
        except ConnectionError:
            return b"reset"
        finally:
            writer.close()


@asynccontextmanager
async def listening(app=echo, most=100, overflow=2, **patience):
    loop, connections = asyncio.get_running_loop(), Connections(most, overflow)
    config = Config(app, interface="asgi3", lifespan="off", access_log=False, ws="none", timeout_keep_alive=1)
    config.load()
    state = {"left": [], "go": asyncio.Event()}
    made = partial(
        BoundedProtocol, config, ServerState(), state, connections=connections, patience=Patience(**patience)
    )
    server = await loop.create_server(made, "127.0.0.1", 0)

    async def sweeping():
        while True:
            await asyncio.sleep(0.05)
            connections.sweep(loop.time())

    sweeper = asyncio.ensure_future(sweeping())
    port = Listening(server.sockets[0].getsockname()[1], connections, state)
    try:
        yield port
    finally:
        await port.close()
        await left_by_all(connections)
        sweeper.cancel()
        server.close()


async def left_by_all(connections):
    """Wait until the server has closed its ends too: one that is open when the loop ends is a warning of its own."""
    for _ in range(2000):
        if not len(connections):
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else answer[:20]


def error(answer):
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
