"""What requests hold together is bounded: the bytes of their bodies, and listeners that stay."""

import asyncio

from tests.applications import INFER, OCTETS, application, assert_error


def ask_in_pieces(api, chunks, path, headers):
    """Begin a request whose body waits in the middle, ask another beside it, then end the first."""

    async def play():
        go = asyncio.Event()

        async def body():
            yield chunks[0]
            await go.wait()
            yield chunks[1]

        first = asyncio.ensure_future(api._client.post(path, content=body(), headers=headers))
        await asyncio.sleep(0.1)
        second = await api._client.post(path, content=chunks[0], headers=headers)
        go.set()
        return await first, second, await api._client.post(path, content=chunks[0], headers=headers)

    return api._runner.run(play())


def test_bodies_in_memory_are_bounded_over_all_requests_and_given_back(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_held_bytes=1500) as api:
        chunks = [b" " * 1000, b"{"]
        first, second, third = ask_in_pieces(api, chunks, INFER, {"Content-Type": "application/json"})
        alone = api("POST", "/v1/snapshots", content=b"x" * 5000, headers=OCTETS)

    assert_error(second, 503, "bodies of 1000 bytes are in memory; with 1000 more they exceed 1500")
    assert_error(first, 400, "is not JSON")
    assert_error(third, 400, "is not JSON")
    assert alone.status_code == 422


def test_listeners_are_bounded_and_one_that_leaves_makes_room(bundles, tmp_path):
    def scope(path):
        return {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "", "state": {},
        }  # fmt: skip

    async def listen(api, path, left):
        statuses = []

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await api.app(scope(path), receive, send)
        return statuses[0]

    async def play(api):
        left = asyncio.Event()
        paths = ["/v1/events/live", "/v1/overview/live"]
        staying = [asyncio.ensure_future(listen(api, path, left)) for path in paths]
        await asyncio.sleep(0.2)
        refused = [await api._client.get(path) for path in (*paths, "/v1/streams/s/history/live")]
        plain = await api._client.get("/v1/events")
        left.set()
        stayed = await asyncio.gather(*staying)
        gone = asyncio.Event()
        gone.set()
        return refused, plain, stayed, await listen(api, paths[0], gone)

    with application(tmp_path, bundles[0], max_listeners=2) as api:
        refused, plain, stayed, after = api._runner.run(play(api))

    for answer in refused:
        assert_error(answer, 503, "2 clients listen to what happens, as many as allowed")
    assert (plain.status_code, stayed, after) == (200, [200, 200], 200)
