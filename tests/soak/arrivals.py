"""Requests that arrive at a rate, whether or not earlier ones are answered."""

import asyncio
import time
from dataclasses import dataclass

import httpx

from tests.serving import images, infer_body

INFER = "/v2/models/reference/infer"
HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    stream: str
    status: int
    seconds: float
    retry_after: bool
    said: str


def client_of(server):
    """A client that lets as many requests be under way as come."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits)


def content_of(count):
    """The content of a request by stream; the images are the same, to be encoded once."""
    import json

    batch = (images(count, 7) * 8).round() / 8
    texts = {}

    def made(stream):
        if stream not in texts:
            texts[stream] = json.dumps(infer_body(batch, stream)).encode()
        return texts[stream]

    return made


async def send(client, stream, content):
    """Send one request and say what became of it."""
    began = time.perf_counter()
    response = await client.post(INFER, content=content, headers=HEADERS)
    seconds = time.perf_counter() - began
    said = response.text if response.status_code != 200 else ""
    return Answer(stream, response.status_code, seconds, "retry-after" in response.headers, said)


async def capacity(client, streams, content, seconds=1.0):
    """Measure answered requests a second, a few at a time, and seconds of one alone."""
    for stream in streams:
        await send(client, stream, content(stream))
    alone = await send(client, streams[0], content(streams[0]))
    end, answered = time.perf_counter() + seconds, 0

    async def one_after_the_other(stream):
        nonlocal answered
        while time.perf_counter() < end:
            answer = await send(client, stream, content(stream))
            assert answer.status == 200, answer.said
            answered += 1

    await asyncio.gather(*(one_after_the_other(stream) for stream in streams))
    return answered / seconds, alone.seconds


async def open_loop(client, streams, content, rate, seconds):
    """Send at a rate for a time; return what became of all requests."""
    tasks, began = [], time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        stream = streams[number % len(streams)]
        tasks.append(asyncio.create_task(send(client, stream, content(stream))))
    return await asyncio.gather(*tasks)
