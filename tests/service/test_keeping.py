"""What outlives a restart, a rest and a crash, by durability; and streams that are unfit, fenced, unused."""

import asyncio
import json
import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from service.errors import StoreDownError
from service.store.catalogue import HEADROOM, Catalogue
from tests.applications import INFER, application, assert_error
from tests.bundles import torch_bundle
from tests.serving import images, infer_body

PATIENCE = 10.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture
def api(bundle, tmp_path):
    with application(tmp_path, bundle) as running:
        yield running


def wait(api, until):
    """Wait until something holds of the application, whose own tasks go on meanwhile."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end
        api._runner.run(asyncio.sleep(0.02))


def rest(api, *ids):
    """Put streams to rest."""
    residence = api.app.state.residence
    streams = [residence.table.find(stream_id) for stream_id in ids]

    async def put():
        for taken in await residence._keeper.keep(streams, final=True):
            residence._rest(taken.stream.id, taken.stream)

    api._runner.run(put())
    assert all(residence.table.find(stream_id) is None for stream_id in ids)


def catalogue(tmp_path, query):
    connection = sqlite3.connect(tmp_path / "data" / "acclimate.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("durability", ["periodic", "sync"])
def test_a_stream_that_rested_answers_as_if_it_had_not(api, durability):
    for name in ("rested", "awake"):
        api.create(id=name, durability=durability if name == "rested" else "ephemeral", adapter="unmix_tns+eta")
    for seed in range(3):
        answers = [api.infer(images(4, seed), name) for name in ("rested", "awake")]
    rest(api, "rested")

    listed = {stream["id"]: stream for stream in api("GET", "/v1/streams").json()["items"]}
    answers = [api.infer(images(4, 7), name) for name in ("rested", "awake")]

    assert (listed["rested"]["resident"], listed["awake"]["resident"]) == (False, True)
    assert (listed["rested"]["generation"], listed["rested"]["steps"]) == (3, 3)
    assert answers[0]["outputs"] == answers[1]["outputs"]
    assert [answer["parameters"]["tta_generation"] for answer in answers] == [4, 4]


def test_an_ephemeral_stream_rests_too_and_comes_back_in_the_same_process(api):
    api.create(id="s", durability="ephemeral")
    api.infer(images(4), "s")
    rest(api, "s")

    assert api.stream("s")["steps"] == 1
    assert api.infer(images(4, 1), "s")["parameters"]["tta_generation"] == 2


def test_a_retry_after_a_rest_or_a_restart_adapts_no_second_time(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        first = api.infer(images(4), "s", "once")
        rest(api, "s")
        assert api.infer(images(4), "s", "once") == first
    with application(tmp_path, bundle) as api:
        assert api.infer(images(4), "s", "once") == first
        assert api.stream("s")["generation"] == 1
        other = api("POST", INFER, json=infer_body(images(4, 5), "s", "once"))
        assert other.status_code == 409


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


def copied(tmp_path, name="copy"):
    """Return a folder with the data as a crash would leave it: the files as they are now."""
    target = tmp_path / name
    source = sqlite3.connect(tmp_path / "data" / "acclimate.db")
    (target / "data" / "checkpoints").mkdir(parents=True)
    into = sqlite3.connect(target / "data" / "acclimate.db")
    source.backup(into)
    source.close()
    into.close()
    for file in (tmp_path / "data" / "checkpoints").iterdir():
        (target / "data" / "checkpoints" / file.name).write_bytes(file.read_bytes())
    return target


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
        assert_error(api("GET", "/v1/streams/s"), 422, "is unfit: what was kept of it is damaged")
        assert_error(api("POST", INFER, json=infer_body(images(2), "s")), 422, "reset it to begin anew")
        assert api.stream("other")["generation"] == 1

        assert api("POST", "/v1/streams/s/reset").json()["steps"] == 0
        assert api.infer(images(2), "s")["parameters"]["tta_generation"] > 1


def test_a_stream_is_pinned_to_the_bundle_it_learned_on_and_may_be_reset_onto_another(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.infer(images(2), "s")
    other = torch_bundle(tmp_path / "reference", name="reference")
    toml = (other / "bundle.toml").read_text()
    (other / "bundle.toml").write_text(
        toml.replace("shape = [3, 16, 16]", "shape = [3, 16, 16]\nmean = [0.1, 0.1, 0.1]\nstd = [1, 1, 1]")
    )
    with application(tmp_path, other) as api:
        assert_error(api("POST", INFER, json=infer_body(images(2), "s")), 422, "reset it to begin anew, or serve")
        assert api("POST", "/v1/streams/s/reset").status_code == 200
        assert api.infer(images(2), "s")["parameters"]["tta_steps"] == 1


def test_streams_unused_for_long_rest_and_then_end(bundle, tmp_path):
    with application(tmp_path, bundle, rest_after_seconds=0.05, end_after_days=1.0 / 86_400) as api:
        api.infer(images(2), "s")
        kept = api("POST", "/v1/streams/s/snapshots").json()["id"]
        table = api.app.state.residence.table
        wait(api, lambda: "s" in table.resting)
        wait(api, lambda: not table.knows("s"))

        assert api("GET", "/v1/streams/s").status_code == 404
        assert api("GET", f"/v1/snapshots/{kept}").status_code == 200
        assert api("GET", "/v1/events").json()["items"][-1]["kind"] == "ended"
    assert catalogue(tmp_path, "SELECT count(*) FROM streams") == [(0,)]


def test_streams_used_longest_ago_rest_when_the_memory_is_full(bundle, tmp_path):
    with application(tmp_path, bundle, resident_bytes=3 * 40_000) as api:
        for number in range(8):
            api.infer(images(2, number), f"s{number}")
        table = api.app.state.residence.table
        wait(api, lambda: len(table) <= 3)

        assert "s7" not in table.resting
        assert len(api.ids()) == 8
        rows = {row["id"]: row["badge"] for row in api("GET", "/v1/overview").json()["streams"]}
        assert rows["s0"] == "resting"
        answers = [api.infer(images(2, 50 + number), f"s{number}") for number in range(8)]
        assert [answer["parameters"]["tta_generation"] for answer in answers] == [2] * 8


def test_many_requests_at_once_bring_a_resting_stream_back_once(api):
    api.infer(images(2), "s")
    rest(api, "s")

    answers = api.together(*[("POST", INFER, {"json": infer_body(images(2, seed), "s")}) for seed in range(6)])

    assert [answer.status_code for answer in answers] == [200] * 6
    assert sorted(answer.json()["parameters"]["tta_generation"] for answer in answers) == [2, 3, 4, 5, 6, 7]


def test_durability_may_be_changed_and_is_told(api, tmp_path):
    api.create(id="s", durability="ephemeral")
    api.infer(images(2), "s")

    changed = api("PATCH", "/v1/streams/s", json={"durability": "sync"}).json()

    assert (changed["durability"], changed["durable_generation"], changed["generation"]) == ("sync", 1, 1)
    assert json.loads(catalogue(tmp_path, "SELECT figures FROM streams")[0][0])["steps"] == 1
    assert np.isclose(changed["state_bytes"], api.stream("s")["state_bytes"])


def test_an_ephemeral_stream_begins_anew_after_a_restart_with_its_settings(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.create(id="s", durability="ephemeral", adapter="unmix_tns", mode="frozen")
        api("PATCH", "/v1/streams/s", json={"mode": "adapt"})
        given = [api.infer(images(2, seed), "s")["parameters"]["tta_generation"] for seed in range(3)]
        rest(api, "s")
        assert api.stream("s")["steps"] == 3
        rest(api, "s")
    with application(tmp_path, bundle) as api:
        stream = api.stream("s")
        assert (stream["adapter"], stream["steps"], stream["durability"]) == ("unmix_tns", 0, "ephemeral")
        assert stream["generation"] >= max(given)


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
        engine = api.app.state.residence._keeper.checkpoints.catalogue._engine
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


def test_a_frozen_stream_that_rested_before_it_learned_anything_still_knows_its_answers(api):
    api.create(id="s", mode="frozen")
    api.infer(images(2), "s", "first")
    answer = api.infer(images(2, 1), "s", "second")
    rest(api, "s")

    assert api("POST", INFER, json=infer_body(images(2, 5), "s", "first")).status_code == 409
    assert api.infer(images(2, 1), "s", "second") == answer


def test_a_stream_that_is_used_while_it_is_put_to_rest_stays_and_may_go_on_beyond(api, tmp_path):
    api.create(id="s")
    api.infer(images(2), "s")
    residence = api.app.state.residence
    stream = residence.table.find("s")

    async def interrupted():
        (taken,) = await residence._keeper.keep([stream], final=True)
        stream.requests += 1
        residence._rest("s", taken.stream)

    api._runner.run(interrupted())

    assert residence.table.find("s") is stream
    wait(api, lambda: catalogue(tmp_path, "SELECT ceiling FROM streams") == [(1 + HEADROOM,)])
