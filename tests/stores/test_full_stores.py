"""A folder that is full or read-only: snapshots are refused, what is in memory stays, and serving goes on."""

from contextlib import contextmanager

import pytest
from obstore.store import LocalStore

from tests.stores.control import create, take, verified_snapshots, view
from tests.stores.mounts import filled, read_only, small_disk
from tests.stores.places import Store
from tests.stores.process import started
from tests.stores.requests import Request, infer, post

pytestmark = pytest.mark.e2e


@contextmanager
def full(folder, disk):
    with filled(disk):
        yield


@contextmanager
def closed(folder, disk):
    with read_only(folder):
        yield


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", megabytes=16) as mounted:
        yield mounted


@pytest.fixture
def server(tmp_path, disk):
    data = disk / "data"
    data.mkdir()
    store = Store("sqlite+folder", data, {}, LocalStore(data))
    with started(tmp_path / "server", store, ACCLIMATE_PERIOD_STEPS="2", ACCLIMATE_PERIOD_SECONDS="1") as running:
        yield running


@pytest.mark.parametrize("trouble", [full, closed])
def test_snapshots_are_507_and_the_stream_goes_on_from_what_is_in_memory(server, disk, trouble):
    with server.client() as client:
        create(client, "s", "periodic")
        infer(client, Request("s", "first", seed=0))
        before, _ = take(client, "s")

        with trouble(disk / "data", disk):
            refused = [client.post("/v1/streams/s/snapshots") for _ in range(2)]
            during = [infer(client, Request("s", f"during-{number}", seed=number)) for number in range(5)]
            ready = client.get("/v2/health/ready").status_code
        after, _ = take(client, "s")
        found = verified_snapshots(client, "s")

    assert [response.status_code for response in refused] == [507, 507], refused[0].text
    assert "as it was" in refused[0].json()["error"] or "nothing was changed" in refused[0].json()["error"]
    assert [answer.steps for answer in during] == list(range(2, 7))
    assert ready == 200
    assert after["steps"] == 6
    assert found == {before["id"], after["id"]}
    assert not list((disk / "data").rglob(".writing-*"))


def test_a_sync_stream_refuses_to_learn_on_a_full_disk_and_goes_on_with_room(server, disk):
    with server.client() as client:
        create(client, "s", "sync")
        kept = [infer(client, Request("s", f"before-{number}", seed=number)) for number in range(3)]

        with filled(disk):
            tried = [post(client, Request("s", f"during-{number}", seed=10 + number)) for number in range(5)]
            during = view(client, "s")
        after = infer(client, Request("s", "after", seed=20))
        server.restart_killed()
    with server.client() as client:
        restarted = view(client, "s")

    answered = [response for response in tried if response.status_code == 200]
    refused = [response for response in tried if response.status_code != 200]
    assert refused, "the disk was not full"
    assert all(response.status_code in {503, 507} for response in refused), refused[0].text
    assert during["steps"] == len(kept) + len(answered)
    assert after.steps == during["steps"] + 1
    assert after.generation == after.durable_generation
    assert (restarted["steps"], restarted["generation"]) == (after.steps, after.generation)


def test_a_server_starts_again_after_a_kill_on_a_full_disk(server, disk):
    with server.client() as client:
        create(client, "s", "sync")
        kept = infer(client, Request("s", "before", seed=0))
        with filled(disk):
            for number in range(4):
                post(client, Request("s", f"during-{number}", seed=10 + number))
            server.kill()
        server.start()
    with server.client() as client:
        now = view(client, "s")
        after = infer(client, Request("s", "after", seed=20))

    assert now["generation"] >= kept.generation
    assert after.steps == now["steps"] + 1
