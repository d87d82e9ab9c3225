"""Connections whose clients send too much, too little or too slowly, over real sockets."""

import asyncio
import time

import pytest

from service.api.middleware.connections import Connections, most_connections
from service.api.middleware.http_protocol import MAX_HEAD, MAX_HEADERS, MAX_PIPELINED
from tests.listening import error, listening, status
from tests.serving import SLACK_SECONDS

GET = b"GET / HTTP/1.1\r\nHost: h\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = b"Connection: close\r\n\r\n"


def play(scene, **settings):
    """Run a scene against a port of its own, and return what it returns."""

    async def played():
        async with listening(**settings) as port:
            return await scene(port)

    return asyncio.run(played())


async def rest_of(reader):
    """Return what is still answered; nothing where the connection is reset under what is being sent."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


HUGE_HEADS = {
    "one_long_header": [GET + b"x: " + b"a" * MAX_HEAD + b"\r\n", CLOSE],
    "one_header_without_end": [GET + b"x: ", *[b"a" * 65_536] * 64],
    "one_name_without_end": [GET, *[b"a" * 65_536] * 64],
    "many_long_headers": [GET, *[b"x: " + b"a" * 8_000 + b"\r\n"] * 9, CLOSE],
    "tiny_headers": [GET + b"a:b\r\n" * 100_000, CLOSE],
    "one_header_too_many": [GET + b"a: b\r\n" * MAX_HEADERS + CLOSE],
    "tiny_headers_without_end": [GET, *[b"a:b\r\n"] * (MAX_HEADERS + 1)],
    "a_long_path": [b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\nHost: h\r\n", CLOSE],
    "a_path_without_end": [b"GET /", *[b"a" * 65_536] * 64],
    "a_long_query": [b"GET /?" + b"a=b&" * (MAX_HEAD // 4) + b" HTTP/1.1\r\nHost: h\r\n", CLOSE],
    "folded_lines": [GET + b"x: a\r\n" + b" a\r\n" * 100_000],
}


@pytest.mark.parametrize("name", HUGE_HEADS)
def test_a_head_of_more_than_64_kib_or_100_headers_is_431_and_the_connection_ends(name):
    answer = play(lambda port: port.ask(*HUGE_HEADS[name]))

    assert status(answer) == 400 if name == "folded_lines" else 431
    assert list(answer.splitlines()).count(b"Connection: close") == 1
    assert name == "folded_lines" or "more than 65536 bytes or 100 headers" in error(answer)


def test_a_head_within_the_bounds_is_served():
    fields = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 600) for number in range(MAX_HEADERS - 2))

    assert status(play(lambda port: port.ask(GET + fields + CLOSE))) == 200


def test_a_head_that_comes_byte_by_byte_is_served_soon():
    head = GET + b"x: " + b"a" * 20_000 + b"\r\n" + CLOSE

    async def scene(port):
        reader, writer = await port.connect()
        began = time.process_time()
        for byte in head:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        return await reader.read(), time.process_time() - began

    answer, seconds = play(scene)

    assert status(answer) == 200
    assert seconds < 10


def test_a_refused_client_that_sends_8_mib_before_it_reads_still_gets_its_answer():
    answer = play(lambda port: port.ask(GET + b"x: ", *[b"a" * 65_536] * 128))

    assert status(answer) == 431


TRAILERS = {
    "one_trailer_without_end": [CHUNKED + b"1\r\nx\r\n0\r\nx: ", *[b"a" * 65_536] * 64],
    "many_trailers": [CHUNKED + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 200 + b"\r\n"],
    "a_chunk_extension_without_end": [CHUNKED + b"1;", *[b"a" * 65_536] * 64],
    "chunks_of_one_byte": [CHUNKED + b"1\r\nx\r\n" * 100_000, b"0\r\n\r\n"],
    "extensions_of_every_chunk": [CHUNKED, *[b"1;" + b"a" * 8_000 + b"\r\nx\r\n"] * 100],
}


@pytest.mark.parametrize("name", TRAILERS)
def test_trailers_extensions_and_tiny_chunks_without_end_are_refused(name):
    answer = play(lambda port: port.ask(*TRAILERS[name]))

    assert status(answer) in (400, 431)
    assert "chunks" in error(answer) or "head" in error(answer)


def test_chunks_of_a_sensible_size_and_a_trailer_are_served_and_no_trailer_becomes_a_header():
    seen = []

    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        seen.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    chunk = b"80\r\n" + b"x" * 128 + b"\r\n"
    body = CHUNKED + chunk * 5_000 + b"0\r\nx-late: 1\r\n\r\n"
    answer = play(lambda port: port.ask(body, GET + CLOSE), app=app)

    assert status(answer) == 204
    assert b"x-late" not in seen[0]
    assert len(seen) == 2


def test_a_head_that_does_not_end_in_time_is_408_however_steadily_it_comes():
    async def scene(port):
        reader, writer = await port.connect()
        writer.write(GET)
        answered = asyncio.ensure_future(reader.read())
        for _ in range(200):
            writer.write(b"x")
            await asyncio.sleep(0.02)
            if answered.done():
                break
        return await answered

    answer = play(scene, head_seconds=0.5)

    assert status(answer) == 408
    assert "did not end within 0.5 s" in error(answer)


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "empty_lines"])
def test_a_connection_without_a_request_ends_in_time(sent):
    async def scene(port):
        reader, writer = await port.connect()
        began = time.perf_counter()
        ended = asyncio.ensure_future(rest_of(reader))
        while not ended.done() and time.perf_counter() - began < SLACK_SECONDS:
            writer.write(sent)
            await asyncio.sleep(0.05)
        return await ended, time.perf_counter() - began

    answer, seconds = play(scene, head_seconds=0.4)

    assert answer == b""
    assert 0.3 < seconds < SLACK_SECONDS


def test_a_kept_connection_that_sends_only_empty_lines_ends():
    async def scene(port):
        reader, writer = await port.connect()
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"]")
        ended = asyncio.ensure_future(rest_of(reader))
        for _ in range(100):
            writer.write(b"\r\n")
            await asyncio.sleep(0.05)
            if ended.done():
                break
        return await ended

    assert play(scene, head_seconds=0.4) == b""


def test_a_body_that_trickles_is_408_and_the_application_hears_that_its_client_left():
    async def scene(port):
        reader, writer = await port.connect()
        writer.write(POST + b"Content-Length: 100000\r\n\r\n")
        answered = asyncio.ensure_future(reader.read())
        while not answered.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        return await answered, port.state["left"]

    answer, left = play(scene, grace_seconds=0.3, body_rate=1000)

    assert status(answer) == 408
    assert "at least 1000 bytes per second are expected" in error(answer)
    assert left == ["/"]


def test_a_body_that_comes_slowly_but_at_the_rate_is_served():
    async def scene(port):
        reader, writer = await port.connect()
        writer.write(POST + b"Content-Length: 3000\r\n" + CLOSE)
        for _ in range(30):
            writer.write(b"x" * 100)
            await asyncio.sleep(0.01)
        return await reader.read()

    answer = play(scene, grace_seconds=0.2, body_rate=1000)

    assert answer.endswith(b'["/", 3000]')


def test_of_many_pipelined_requests_those_within_the_bound_are_answered_in_order_and_then_it_ends():
    async def scene(port):
        asking = asyncio.ensure_future(
            port.ask(b"".join(b"GET /wait%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(5000)))
        )
        await asyncio.sleep(0.2)
        port.state["go"].set()
        return await asking

    answer = play(scene)

    answered = MAX_PIPELINED + 1
    assert answer.count(b"HTTP/1.1 200") == answered
    places = [answer.find(b'"/wait%d"' % n) for n in range(answered)]
    assert places == sorted(places)
    assert status(answer[answer.rfind(b"HTTP/1.1 ") :]) == 429


def test_a_bad_request_behind_another_is_answered_after_it():
    async def scene(port):
        asking = asyncio.ensure_future(port.ask(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n", b"nonsense\r\n\r\n"))
        await asyncio.sleep(0.1)
        port.state["go"].set()
        return await asking

    answer = play(scene)

    assert status(answer) == 200
    assert b'["/wait", 0]HTTP/1.1 400 Bad Request' in answer


def test_a_request_that_is_no_http_is_400_by_the_error_contract():
    answer = play(lambda port: port.ask(b"\x16\x03\x01 tls?\r\n\r\n"))

    assert status(answer) == 400
    assert "not HTTP/1.1" in error(answer)


def test_an_upgrade_is_answered_as_any_request():
    head = (
        GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    async def scene(port):
        reader, writer = await port.connect()
        writer.write(head)
        return await asyncio.wait_for(reader.readuntil(b"]"), 5)

    assert status(play(scene)) == 200


def test_where_there_are_too_many_connections_the_one_idle_longest_ends_and_the_new_one_is_served():
    async def scene(port):
        idle = [await port.connect() for _ in range(3)]
        await asyncio.sleep(0.1)
        answer = await port.ask(GET + CLOSE)
        first = await asyncio.wait_for(idle[0][0].read(), 5)
        for _, writer in idle[1:]:
            writer.write(GET + CLOSE)
        return answer, first, [await reader.read() for reader, _ in idle[1:]]

    answer, first, others = play(scene, most=3)

    assert status(answer) == 200
    assert first == b""
    assert [status(other) for other in others] == [200, 200]


def test_where_every_connection_is_at_work_the_next_are_told_503_and_health_is_answered():
    async def scene(port):
        busy = [asyncio.ensure_future(port.ask(b"GET /wait HTTP/1.1\r\nHost: h\r\n" + CLOSE)) for _ in range(3)]
        await asyncio.sleep(0.1)
        full = await port.ask(GET + b"\r\n")
        health = await port.ask(GET.replace(b"/", b"/v2/health/live", 1) + CLOSE)
        port.state["go"].set()
        answers = [await each for each in busy]
        return full, health, answers, await port.ask(GET + CLOSE), len(port.connections)

    full, health, answers, after, left = play(scene, most=3)

    assert status(full) == 503
    assert "as many connections as it may" in error(full)
    assert b"retry-after: 1" in full.lower()
    assert [status(answer) for answer in [health, *answers, after]] == [200] * 5
    assert left <= 1


def test_a_flood_of_connections_leaves_room_for_the_newest():
    async def scene(port):
        flood = [await port.connect() for _ in range(300)]
        answers = [await port.ask(GET + CLOSE) for _ in range(5)]
        for _, writer in flood:
            writer.close()
        return answers, len(port.connections)

    answers, held = play(scene, most=20)

    assert [status(answer) for answer in answers] == [200] * 5
    assert held <= 20


def test_the_bound_on_connections_leaves_descriptors_for_files(monkeypatch):
    def bound(limit, asked=0):
        monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
        return most_connections(asked, lambda: 40)

    assert bound(1024) == 1024 - 40 - 32 - 256
    assert bound(128) == 28
    assert bound(64) == 4
    assert bound(10**6) == 10**6 - 40 - 32 - 256 or bound(10**6) == 10_000
    assert bound(1024, asked=100) == 100
    assert bound(1024, asked=5000) == 1024 - 40 - 32 - 256


def test_a_table_of_connections_keeps_nothing_of_those_that_ended():
    class Connection:
        evicted = False

        def evict(self):
            self.evicted = True

        def check(self, now):
            pass

    table, connections = Connections(2, 1), [Connection() for _ in range(4)]

    assert [table.admit(each) for each in connections[:2]] == ["served"] * 2
    for each in connections[:2]:
        table.works(each)
    assert [table.admit(each) for each in connections[2:]] == ["overflow", "served"]
    assert connections[2].evicted
    for each in connections:
        table.forget(each)
        table.waits(each)
    assert len(table) == 0
