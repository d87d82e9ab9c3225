"""Models that raise what ends a process, steps and stores that hang: one request fails, and a stop ends in time."""

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from service.serving.shutdown import GRACE_SECONDS
from tests.applications import INFER, application, assert_error
from tests.bundles import torch_bundle
from tests.hazards import FACTORY, HANG, PAUSE, PAUSE_SECONDS, RAISED, asking, hazard_bundle
from tests.serving import SLACK_SECONDS, images, infer_body, serving, wait_ready
from tests.stored import PATIENCE, catalogue

ASK = "/v2/models/hazard/infer"
DRAIN_SECONDS = 1.0


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return torch_bundle(folder / "reference"), hazard_bundle(folder / "hazard")


@pytest.fixture(scope="module")
def hazard(bundles, tmp_path_factory):
    with application(
        tmp_path_factory.mktemp("hazard"), bundles[1], allow_factories=(FACTORY,), step_seconds=0.3
    ) as api:
        yield api


@contextmanager
def locked(folder):
    """Hold the catalogue as another process may, so that nobody else can write it."""
    connection = sqlite3.connect(folder / "data" / "acclimate.db", isolation_level=None, timeout=10)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_what_a_model_raises_fails_its_request_and_not_the_server(hazard):
    hazard("POST", ASK, json=infer_body(images(2), "s"))
    before = hazard.everything()
    for number, error in enumerate(RAISED, 1):
        with capture_logs() as logged:  # without the slow rendering of all local variables
            failed = hazard("POST", ASK, json=infer_body(asking(number), "s"))

        name = "RuntimeError" if error is StopIteration else error.__name__  # Python's own word, from a generator
        assert_error(failed, 500, name)
        assert [entry["event"] for entry in logged] == ["job_failed"]
        assert hazard.everything() == before
    assert hazard("POST", ASK, json=infer_body(images(2), "s")).status_code == 200


def test_a_step_that_takes_too_long_makes_the_server_not_ready_until_it_is_over(hazard):
    seen = []

    async def scenario():

        slow = asyncio.ensure_future(hazard._client.post(ASK, json=infer_body(asking(PAUSE), "slow")))
        while not slow.done():
            seen.append(await hazard._client.get("/v2/health/ready"))
            await asyncio.sleep(0.05)
        return await slow

    hazard("POST", ASK, json=infer_body(images(2), "slow"))
    answer = hazard._runner.run(scenario())
    refused = [ready.json() for ready in seen if ready.status_code == 503]

    assert answer.status_code == 200
    assert refused
    assert refused[0]["ready"] is False
    assert "'slow'" in refused[0]["reason"]
    assert hazard("GET", "/v2/health/ready").json() == {"ready": True}
    assert PAUSE_SECONDS > 0.3


def test_a_store_that_hangs_holds_up_its_own_streams_alone(bundles, tmp_path):
    with application(tmp_path, bundles[0], store_seconds=1.0) as api:
        api.create(id="sync", durability="sync")
        api.create(id="free", durability="ephemeral")
        first = api.infer(images(2), "sync", "r1")
        with locked(tmp_path):
            took = []

            async def scenario():

                body = infer_body(images(2, 1), "sync", "r2")
                held = asyncio.ensure_future(api._client.post(INFER, json=body))
                await asyncio.sleep(0.1)
                for seed in range(5):
                    began = time.monotonic()
                    answer = await api._client.post(INFER, json=infer_body(images(2, seed), "free"))
                    took.append((answer.status_code, time.monotonic() - began))
                    assert not held.done()
                return await held

            refused = api._runner.run(scenario())
        assert_error(refused, 503, "the store does not answer")
        assert [status for status, _ in took] == [200] * 5
        assert api.stream("sync")["generation"] == 1

        again = api.infer(images(2, 1), "sync", "r2")
        assert again["parameters"]["tta_generation"] == again["parameters"]["tta_durable_generation"] == 2
        assert api.infer(images(2), "sync", "r1") == first
        assert catalogue(tmp_path, "SELECT generation FROM streams WHERE id = 'sync'") == [(2,)]


@contextmanager
def hazardous(folder, bundle):
    environment = {
        "ACCLIMATE_ALLOW_FACTORIES": f'["{FACTORY}", "tests.models:untrained_reference_network"]',
        "ACCLIMATE_DRAIN_SECONDS": str(DRAIN_SECONDS), "ACCLIMATE_STEP_SECONDS": "0.5",
        "ACCLIMATE_PERIOD_SECONDS": "1000", "ACCLIMATE_PERIOD_STEPS": "1000",
    }  # fmt: skip
    with serving(folder, "--bundle", str(bundle), environment=environment) as server:
        wait_ready(server)
        yield server


def stopped(server):
    """Stop a server; return its exit status and the seconds that it took."""
    began = time.monotonic()
    return server.stop(), time.monotonic() - began


def generations(server):
    with server.client() as client:
        return {stream["id"]: stream["generation"] for stream in client.get("/v1/streams").json()["items"]}


def unready(client):
    """Wait until a server is not ready; return its answer."""
    ends = time.monotonic() + PATIENCE
    while (answer := client.get("/v2/health/ready")).status_code == 200:
        assert time.monotonic() < ends
    return answer


def test_a_stop_beside_a_step_that_hangs_keeps_every_stream_and_ends_in_time(bundles, tmp_path):
    with hazardous(tmp_path, bundles[1]) as server, ThreadPoolExecutor(1) as pool, server.client() as client:
        for stream in ("a", "hangs"):
            for seed in range(3):
                assert client.post(ASK, json=infer_body(images(2, seed), stream)).status_code == 200
        held = pool.submit(client.post, ASK, json=infer_body(asking(HANG), "hangs"))
        with server.client() as other:
            ready = unready(other)
        status, seconds = stopped(server)
        assert_error(held.result(), 503, "send the request again, with the same id")
    assert ready.status_code == 503
    assert "'hangs'" in ready.json()["reason"]
    assert status == 1
    assert seconds < DRAIN_SECONDS + GRACE_SECONDS + SLACK_SECONDS
    with hazardous(tmp_path, bundles[1]) as server:
        assert generations(server) == {"a": 3, "hangs": 3}


def test_a_stop_beside_a_store_that_hangs_ends_in_time(bundles, tmp_path):
    with hazardous(tmp_path, bundles[0]) as server, server.client() as client:
        assert client.post(INFER, json=infer_body(images(2), "a")).status_code == 200
        with locked(tmp_path):
            status, seconds = stopped(server)
        log = server.log.read_text()
    assert status == 1, log
    assert seconds < DRAIN_SECONDS + GRACE_SECONDS + SLACK_SECONDS
    assert "the store" in log
