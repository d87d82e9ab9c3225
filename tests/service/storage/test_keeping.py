"""What outlives a restart and a crash, by durability; and streams that cannot be kept, or are another process's."""

import asyncio
import json
import os
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from service.errors import StoreDownError
from service.storage.backends.catalogue import HEADROOM, Catalogue
from tests.applications import INFER, OCTETS, application, assert_error
from tests.bundles import torch_bundle
from tests.serving import images, infer_body
from tests.stored import catalogue, copied, wait


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture
def api(bundle, tmp_path):
    with application(tmp_path, bundle) as running:
        yield running


def test_sync_answers_are_durable_when_they_are_given(api, tmp_path):
    api.create(id="s", durability="sync")
    for seed in range(3):
        facts = api.infer(images(4, seed), "s")["parameters"]
        assert facts["tta_durable_generation"] == facts["tta_generation"] == seed + 1
        assert catalogue(tmp_path, "SELECT generation FROM streams") == [(seed + 1,)]


def test_images_that_wait_for_a_sync_stream_are_durable_too(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.create(id="s", durability="sync", adapt_batch_size=8)
        api.infer(images(3), "s")
        (blob,) = catalogue(tmp_path, "SELECT blob FROM streams")
        assert (tmp_path / "data" / "checkpoints" / blob[0]).exists()
    with application(tmp_path, bundle) as api:
        assert api.stream("s")["waiting_images"] == 3


def test_a_sync_stream_that_cannot_be_kept_is_as_it_was_and_says_so(api, monkeypatch):
    api.create(id="s", durability="sync")
    api.infer(images(4), "s")
    before = api.stream("s")

    def fail(_handle):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for call in (
            ("POST", INFER, {"json": infer_body(images(4, 1), "s", "r")}),
            ("POST", "/v1/streams/s/reset", {}),
        ):
            method, path, settings = call
            assert_error(api(method, path, **settings), 507, "nothing could be kept")
    assert api.stream("s") == before

    again = api.infer(images(4, 1), "s", "r")["parameters"]
    assert (again["tta_generation"], again["tta_durable_generation"]) == (2, 2)


def test_a_periodic_stream_is_kept_behind_the_traffic(bundle, tmp_path):
    with application(tmp_path, bundle, period_steps=4, period_seconds=1000.0) as api:
        api.create(id="s")
        for seed in range(3):
            assert api.infer(images(2, seed), "s")["parameters"]["tta_durable_generation"] == 0
        api.infer(images(2, 3), "s")
        wait(api, lambda: api.stream("s")["durable_generation"] == 4)


def test_a_periodic_stream_is_kept_after_some_time(bundle, tmp_path):
    with application(tmp_path, bundle, period_steps=1000, period_seconds=0.2) as api:
        api.infer(images(2), "s")
        wait(api, lambda: api.stream("s")["durable_generation"] == 1)


def test_what_an_operator_does_is_kept_soon(bundle, tmp_path):
    with application(tmp_path, bundle, period_seconds=1000.0) as api:
        api.create(id="s")
        api("PATCH", "/v1/streams/s", json={"mode": "frozen"})
        wait(api, lambda: "frozen" in catalogue(tmp_path, "SELECT settings FROM streams")[0][0])


def test_after_a_crash_a_periodic_stream_goes_on_beyond_what_was_given_and_says_what_is_lost(bundle, tmp_path):
    with application(tmp_path, bundle, period_steps=2, period_seconds=1000.0) as api:
        api.infer(images(2), "s")
        api.infer(images(2, 1), "s")
        wait(api, lambda: api.stream("s")["durable_generation"] >= 1)
        durable = api.stream("s")["durable_generation"]
        api.infer(images(2, 2), "s")
        left = copied(tmp_path)
    with application(left, bundle) as api:
        stream = api.stream("s")
        assert (stream["generation"], stream["durable_generation"]) == (durable + HEADROOM, durable)
        assert stream["steps"] == durable
        resumed = [event for event in api("GET", "/v1/events").json()["items"] if event["kind"] == "resumed"]
        assert "is lost" in resumed[-1]["reason"]
        assert resumed[-1]["figures"]["generation"] == durable
        assert api.infer(images(2, 3), "s")["parameters"]["tta_generation"] == durable + HEADROOM + 1


def test_after_a_crash_a_sync_stream_goes_on_where_it_was(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.create(id="s", durability="sync")
        given = [api.infer(images(2, seed), "s", f"r{seed}") for seed in range(3)]
        left = copied(tmp_path)
    with application(left, bundle) as api:
        assert (api.stream("s")["generation"], api.stream("s")["steps"]) == (3, 3)
        assert api.infer(images(2, 2), "s", "r2") == given[2]
        assert api.infer(images(2, 3), "s")["parameters"]["tta_generation"] == 4


def taken_over(tmp_path):
    connection = sqlite3.connect(tmp_path / "data" / "acclimate.db", isolation_level=None)
    connection.execute("UPDATE streams SET epoch = epoch + 1")
    connection.close()


def test_a_stream_that_another_process_has_taken_over_is_fenced_and_can_be_taken_back(api, tmp_path):
    api.create(id="s", durability="sync")
    api.infer(images(2), "s")
    taken_over(tmp_path)

    refused = api("POST", INFER, json=infer_body(images(2, 1), "s", "r"))
    again = api.infer(images(2, 1), "s", "r")

    assert_error(refused, 409, "fenced")
    assert again["parameters"]["tta_generation"] == 2
    assert [event["kind"] for event in api("GET", "/v1/events").json()["items"]].count("fenced") == 1
    taken_over(tmp_path)
    assert api("DELETE", "/v1/streams/s").status_code == 409


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_stream_whose_state_is_damaged_says_so_and_can_be_reset(bundle, tmp_path, harm):
    with application(tmp_path, bundle) as api:
        api.create(id="s")
        api.infer(images(2), "s")
        api.infer(images(2), "other")
    ((blob,),) = catalogue(tmp_path, "SELECT blob FROM streams WHERE id = 's'")
    file = tmp_path / "data" / "checkpoints" / blob
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes(content) if harm == "flipped" else bytes(content[:-9]))
    with application(tmp_path, bundle) as api:
        assert_error(api("GET", "/v1/streams/s"), 422, "is unfit: its checkpoint is damaged")
        assert_error(api("POST", INFER, json=infer_body(images(2), "s")), 422, "reset it to start over")
        assert api.stream("other")["generation"] == 1

        assert api("POST", "/v1/streams/s/reset").json()["steps"] == 0
        assert api.infer(images(2), "s")["parameters"]["tta_generation"] > 1


def test_durability_may_be_changed_and_is_told(api, tmp_path):
    api.create(id="s", durability="ephemeral")
    api.infer(images(2), "s")

    changed = api("PATCH", "/v1/streams/s", json={"durability": "sync"}).json()

    assert (changed["durability"], changed["durable_generation"], changed["generation"]) == ("sync", 1, 1)
    assert json.loads(catalogue(tmp_path, "SELECT figures FROM streams")[0][0])["steps"] == 1
    assert np.isclose(changed["state_bytes"], api.stream("s")["state_bytes"])


def test_a_stop_waits_for_the_write_that_is_under_way(bundle, tmp_path, monkeypatch):
    sync = os.fsync

    def slow(handle):
        time.sleep(0.05)
        sync(handle)

    with application(tmp_path, bundle, period_steps=1) as api:
        monkeypatch.setattr(os, "fsync", slow)
        for seed in range(6):
            api.infer(images(2, seed), "s")
    monkeypatch.setattr(os, "fsync", sync)
    with application(tmp_path, bundle) as api:
        stream = api.stream("s")
        assert (stream["generation"], stream["durable_generation"], stream["steps"]) == (6, 6, 6)


def test_a_database_that_is_away_costs_no_blobs_and_what_waits_is_kept_when_it_is_back(bundle, tmp_path):
    folder = tmp_path / "data" / "checkpoints"
    with application(tmp_path, bundle, period_steps=1) as api:
        api.create(id="s")
        api.create(id="sync", durability="sync")
        api.infer(images(2), "sync")
        moved = tmp_path / "data" / "acclimate.db"
        engine = api.app.state.services.residence._keeper.checkpoints.catalogue._engine
        engine.dispose()
        moved.rename(tmp_path / "away.db")
        before = len(list(folder.iterdir()))
        (tmp_path / "data" / "acclimate.db").mkdir()
        for seed in range(3):
            assert api.infer(images(2, seed), "s")["parameters"]["tta_generation"] == seed + 1
            refused = api("POST", INFER, json=infer_body(images(2, seed + 1), "sync"))
            assert_error(refused, 503, "does not answer")
            api._runner.run(asyncio.sleep(0.3))
        assert len(list(folder.iterdir())) == before
        moved.rmdir()
        (tmp_path / "away.db").rename(moved)
        wait(api, lambda: api.stream("s")["durable_generation"] == 3)
        assert api.infer(images(2, 1), "sync")["parameters"]["tta_generation"] == 2


def fails(*_arguments, **_settings):
    raise OSError(5, os.strerror(5))


def commits_and_fails(catalogue_class):
    advance = catalogue_class.advance

    def told_too_late(self, moves):
        advance(self, moves)
        raise StoreDownError("the database does not answer (the connection broke); nothing was changed")

    return told_too_late


def does_not_commit(self, moves):
    raise StoreDownError("the database does not answer (the connection broke); nothing was changed")


STEPS = {
    "open": (os, "open", fails, 500),
    "fsync": (os, "fsync", fails, 500),
    "rename": (Path, "rename", fails, 500),
    "commit": (Catalogue, "advance", does_not_commit, 503),
    "answer of the commit": (Catalogue, "advance", commits_and_fails(Catalogue), 503),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_write_that_fails_at_any_step_adapts_at_most_once(bundle, tmp_path, monkeypatch, step):
    owner, name, failure, status = step
    with application(tmp_path, bundle) as api:
        api.create(id="s", durability="sync")
        api.infer(images(4), "s", "first")
        before = api.stream("s")
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failure)
            refused = api("POST", INFER, json=infer_body(images(4, 1), "s", "again"))
        assert refused.status_code == status
        assert api.stream("s") == before

        tried = [api("POST", INFER, json=infer_body(images(4, 1), "s", "again")) for _ in range(2)]
        answer = tried[-1].json()

        assert (answer["parameters"]["tta_generation"], answer["parameters"]["tta_steps"]) == (2, 2)
        assert api.stream("s")["steps"] == 2
    with application(tmp_path, bundle) as api:
        assert (api.stream("s")["generation"], api.stream("s")["steps"]) == (2, 2)
        assert api.infer(images(4, 1), "s", "again") == answer


def test_a_durability_that_the_store_cannot_keep_is_not_changed(api, monkeypatch):
    api.create(id="s", durability="ephemeral")
    api.infer(images(2), "s")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        assert api("PATCH", "/v1/streams/s", json={"durability": "sync"}).status_code == 500

    assert api.stream("s")["durability"] == "ephemeral"


def test_a_stream_that_ends_while_it_is_first_kept_stays_ended(bundle, tmp_path, monkeypatch):
    enrol, begun = Catalogue.enrol, threading.Event()

    def slow(self, record):
        begun.set()
        time.sleep(0.2)
        enrol(self, record)

    monkeypatch.setattr(Catalogue, "enrol", slow)
    with application(tmp_path, bundle, period_steps=1) as api:
        api.infer(images(2), "s")
        api._runner.run(asyncio.to_thread(begun.wait, 10))
        assert api("DELETE", "/v1/streams/s").status_code == 204
        assert api.ids() == []
    assert catalogue(tmp_path, "SELECT count(*) FROM streams") == [(0,)]


def test_a_snapshot_that_was_removed_may_be_uploaded_again(api, tmp_path):
    api.create(id="s")
    taken = api("POST", "/v1/streams/s/snapshots").json()["id"]
    file = api("GET", f"/v1/snapshots/{taken}/download").content
    api("DELETE", f"/v1/snapshots/{taken}")

    assert catalogue(tmp_path, "SELECT blob FROM garbage WHERE blob LIKE 'snapshots/%'") == []
    assert api("POST", "/v1/snapshots", content=file, headers=OCTETS).status_code == 201
