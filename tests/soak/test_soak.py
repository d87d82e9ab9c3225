"""Thousands of requests of all kinds to streams that come and go: nothing grows, leaks, fails or goes back."""

import time
from statistics import median

import pytest

from tests.bundles import torch_bundle
from tests.serving import serving, wait_ready
from tests.soak.crowd import Crowd
from tests.soak.measures import held
from tests.stored import PATIENCE

pytestmark = pytest.mark.e2e
BUSY_BYTES = 45_000
"""What a stream takes, roughly: a quarter of the streams fit."""
GROWTH = 1.05
POOLED, FILES_EACH = 2, 3
"""Threads, and connections to SQLite with their files, that a pool may still open late; a leak would be hundreds."""
TASKS = 4
"""Of writes and steps that are under way by chance; a leak would be hundreds."""
FULL = pytest.param(30_000, 500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])


def settled(client):
    """List the streams once more than a quarter of them rest, or when it is too late for that."""
    end = time.monotonic() + PATIENCE
    while True:
        listed = client.get("/v1/streams?limit=1000").json()["items"]
        resting = [stream for stream in listed if not stream["resident"]]
        if len(resting) > len(listed) // 4 or time.monotonic() > end:
            return listed, resting
        time.sleep(0.1)


@pytest.mark.parametrize(("requests", "streams"), [(1_000, 50), FULL])
def test_a_server_under_requests_of_all_kinds_neither_grows_nor_leaks_nor_forgets(tmp_path, requests, streams):
    bundle = torch_bundle(tmp_path / "bundle")
    small = {"ACCLIMATE_RESIDENT_BYTES": str(streams * BUSY_BYTES // 4)}
    measured = []
    with serving(tmp_path, "--bundle", str(bundle), environment=small) as server, server.client() as client:
        wait_ready(server)
        crowd = Crowd(client, streams)
        for number in range(requests):
            crowd.act()
            if number % (requests // 200) == 0:
                measured.append(held(server.process.pid, client.get("/metrics").text))
        listed, resting = settled(client)
        for stream in listed:
            crowd.known[stream["id"]].saw(stream)
        assert server.stop() == 0

    second, last = measured[50:100], measured[150:]
    grown = {name: [median(getattr(each, name) for each in part) for part in (second, last)] for name in
             ("rss", "threads", "files", "tasks")}  # fmt: skip
    print(f"second and last quarter: {grown}; {len(resting)} of {len(listed)} rest; {dict(crowd.statuses)}")
    assert {stream["id"] for stream in listed} == crowd.known.keys()
    assert len(resting) > len(listed) // 4, "the streams did not all fit"
    assert grown["rss"][1] <= GROWTH * grown["rss"][0]
    assert grown["threads"][1] <= grown["threads"][0] + POOLED
    assert grown["files"][1] <= grown["files"][0] + POOLED * FILES_EACH
    assert grown["tasks"][1] <= grown["tasks"][0] + TASKS
    assert max(crowd.statuses) < 500
