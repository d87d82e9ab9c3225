"""Twice as many requests as can be answered, clients that hang up, and a stop in the middle of it."""

import asyncio
from collections import Counter
from statistics import median

import httpx
import pytest

from tests.bundles import torch_bundle
from tests.serving import serving, wait_ready
from tests.soak.arrivals import capacity, client_of, content_of, open_loop, send

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
DEADLINE = 2.0
STREAMS = {"e": "ephemeral", "p": "periodic", "s": "sync", "t": "sync"}
LIMITS = {
    "ACCLIMATE_DEADLINE_SECONDS": str(DEADLINE),
    "ACCLIMATE_MAX_QUEUE": "24",
    "ACCLIMATE_MAX_QUEUE_PER_STREAM": "8",
}
IMAGES = 64
"""Of one request: enough that it is learning that is slow, not its client."""
SLACK = 1.0
"""Seconds for what is neither waiting nor learning, on a machine whose cores are shared."""


def create_streams(server):
    with server.client() as client:
        for stream, durability in STREAMS.items():
            body = {"id": stream, "durability": durability, "guard": {"collapse": "off", "harm": "off"}}
            assert client.post("/v1/streams", json=body).status_code == 201


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overload")
    bundle = torch_bundle(folder / "bundle")
    with serving(folder, "--bundle", str(bundle), environment=LIMITS) as running:
        wait_ready(running)
        create_streams(running)
        yield running


def steps_of(server):
    with server.client() as client:
        return {stream: client.get(f"/v1/streams/{stream}").json()["steps"] for stream in STREAMS}


def assert_refused_well(refusals):
    """Refused by what was said to be the bounds, with when to try again, and at once."""
    assert {answer.status for answer in refusals} <= {429, 503, 504}
    assert all(answer.retry_after == (answer.status in (429, 503)) for answer in refusals)
    late = [answer.seconds for answer in refusals if answer.status == 504]
    assert all(seconds >= DEADLINE for seconds in late)
    at_once = [answer.seconds for answer in refusals if answer.status != 504]
    assert median(at_once) < DEADLINE / 4


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_twice_the_load_is_answered_in_time_or_refused_at_once_and_nothing_is_lost(server, seconds):
    async def scenario():
        async with client_of(server) as client:
            content = content_of(IMAGES)
            rate, alone = await capacity(client, list(STREAMS), content)
            before = steps_of(server)
            answers = await open_loop(client, list(STREAMS), content, 2 * rate, seconds)
            after = [await send(client, stream, content(stream)) for stream in STREAMS]
            return rate, alone, before, answers, after

    rate, alone, before, answers, after = asyncio.run(scenario())

    counts = Counter(answer.status for answer in answers)
    accepted = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    print(f"{rate:.0f} a second; alone {alone:.3f} s; {dict(counts)}; slowest {max(a.seconds for a in accepted):.2f} s;"
          f" refusals {median(a.seconds for a in refused):.4f} s")  # fmt: skip
    assert max(answer.seconds for answer in accepted) <= DEADLINE + alone + SLACK
    assert_refused_well(refused)
    assert [answer.status for answer in after] == [200] * len(STREAMS)
    assert max(answer.seconds for answer in after) <= DEADLINE
    answered = Counter(answer.stream for answer in accepted)
    assert steps_of(server) == {stream: before[stream] + answered[stream] + 1 for stream in STREAMS}


def test_clients_that_hang_up_leave_each_stream_before_or_after_a_whole_step(server):
    before = steps_of(server)

    async def scenario():
        async with client_of(server) as client:
            content = content_of(IMAGES)
            tasks = [asyncio.create_task(send(client, stream, content(stream))) for stream in list(STREAMS) * 6]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks[::2]:
                task.cancel()
            told = await asyncio.gather(*tasks, return_exceptions=True)
            after = [await send(client, stream, content(stream)) for stream in STREAMS]
            return told, after

    told, after = asyncio.run(scenario())

    answered = Counter(
        answer.stream for answer in told if not isinstance(answer, BaseException) and answer.status == 200
    )
    assert [answer.status for answer in after] == [200] * len(STREAMS)
    with server.client() as client:
        for stream in STREAMS:
            now = client.get(f"/v1/streams/{stream}").json()
            assert now["generation"] == now["steps"]
            assert answered[stream] + 1 <= now["steps"] - before[stream] <= 6 + 1


async def readiness(server, client):
    """Ask whether the server is ready until nobody answers any more; return what was said."""
    said = []
    while True:
        try:
            said.append((await client.get("/v2/health/ready")).status_code)
        except httpx.TransportError:
            return said


def test_a_stop_under_load_answers_what_it_has_taken_and_keeps_every_stream(tmp_path):
    async def scenario(server):
        async with client_of(server) as client, client_of(server) as prober:
            content = content_of(IMAGES)
            tasks = [asyncio.create_task(send(client, stream, content(stream))) for stream in list(STREAMS) * 5]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            probing = asyncio.create_task(readiness(server, prober))
            server.process.terminate()
            return await asyncio.gather(*tasks, return_exceptions=True), await probing

    bundle = torch_bundle(tmp_path / "bundle")
    with serving(tmp_path, "--bundle", str(bundle), environment=LIMITS) as first:
        wait_ready(first)
        create_streams(first)
        told, ready = asyncio.run(scenario(first))
        assert first.process.wait(30) == 0
        assert '"drained": true' in first.log.read_text()
    with serving(tmp_path, "--bundle", str(bundle), environment=LIMITS) as second:
        wait_ready(second)
        steps = steps_of(second)

    answers = [answer for answer in told if not isinstance(answer, BaseException)]
    cut_off = [answer for answer in told if isinstance(answer, BaseException)]
    answered = Counter(answer.stream for answer in answers if answer.status == 200)
    print(f"{Counter(answer.status for answer in answers)}; {len(cut_off)} cut off; ready: {Counter(ready)}")
    assert all(isinstance(answer, httpx.TransportError) for answer in cut_off)
    assert {answer.status for answer in answers} <= {200, 429, 503}
    assert ready[-1] == 503
    assert set(ready) <= {200, 503}
    assert ready == sorted(ready), "once it is not ready, it is so until it ends"
    assert answered
    assert {s: steps[s] for s in STREAMS if s != "e"} == {s: answered[s] for s in STREAMS if s != "e"}
