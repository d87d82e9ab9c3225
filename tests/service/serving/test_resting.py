"""Streams that leave the memory and come back: by bytes, by time, after a restart; and those that are unfit."""

import asyncio
import sqlite3
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from service.serving import stream_cache
from service.storage.backends.catalogue import CHECKPOINTS, HEADROOM
from service.storage.snapshots.format import unpack
from tests.applications import INFER, application, assert_error
from tests.bundles import torch_bundle
from tests.serving import images, infer_body, outputs
from tests.stored import catalogue, rest, wait


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture
def api(bundle, tmp_path):
    with application(tmp_path, bundle) as running:
        yield running


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


def halved_names(tmp_path, stream):
    """Return the names of the tensors that a stream's blob holds in half precision."""
    ((blob,),) = catalogue(tmp_path, f"SELECT blob FROM streams WHERE id = '{stream}'")
    (file,) = (tmp_path / "data" / CHECKPOINTS).rglob(f"{blob}*")
    manifest, tensors = unpack(file.read_bytes())
    halves = [name for name, tensor in tensors.items() if tensor.dtype == torch.float16]
    assert manifest.halved == bool(halves)
    return halves


def test_with_half_checkpoints_a_rested_stream_is_near_and_a_sync_one_exact(bundle, tmp_path):
    with application(tmp_path, bundle, half_checkpoints=True) as api:
        for name, durability in (("awake", "ephemeral"), ("near", "periodic"), ("exact", "sync")):
            api.create(id=name, durability=durability, adapter="unmix_tns+eta")
            for seed in range(3):
                api.infer(images(4, seed), name)
        rest(api, "near", "exact")
        answers = {name: outputs(api.infer(images(4, 7), name)) for name in ("awake", "near", "exact")}
        halves = {name: halved_names(tmp_path, name) for name in ("near", "exact")}

    assert halves["near"]
    assert all(name.startswith("adapter/") for name in halves["near"])
    assert halves["exact"] == []
    np.testing.assert_array_equal(answers["exact"]["logits"], answers["awake"]["logits"])
    np.testing.assert_allclose(answers["near"]["logits"], answers["awake"]["logits"], atol=0.02)


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
        other = api.infer(images(4, 5), "s", "once")  # another body is a new request
        assert other["parameters"]["tta_generation"] == api.stream("s")["generation"] == 2


def test_a_stream_is_pinned_to_the_bundle_it_learned_on_and_may_be_reset_onto_another(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.infer(images(2), "s")
    other = torch_bundle(tmp_path / "reference", name="reference")
    toml = (other / "bundle.toml").read_text()
    (other / "bundle.toml").write_text(
        toml.replace("shape = [3, 16, 16]", "shape = [3, 16, 16]\nmean = [0.1, 0.1, 0.1]\nstd = [1, 1, 1]")
    )
    with application(tmp_path, other) as api:
        assert_error(api("POST", INFER, json=infer_body(images(2), "s")), 422, "reset it to start over, or serve")
        assert api("POST", "/v1/streams/s/reset").status_code == 200
        assert api.infer(images(2), "s")["parameters"]["tta_steps"] == 1


def test_streams_unused_for_long_rest_and_then_end(bundle, tmp_path):
    with application(tmp_path, bundle, rest_after_seconds=0.05, end_after_days=1.0 / 86_400) as api:
        api.infer(images(2), "s")
        kept = api("POST", "/v1/streams/s/snapshots").json()["id"]
        table = api.app.state.services.residence.table
        wait(api, lambda: "s" in table.resting)
        wait(api, lambda: not table.knows("s"))

        assert api("GET", "/v1/streams/s").status_code == 404
        assert api("GET", f"/v1/snapshots/{kept}").status_code == 200
        assert api("GET", "/v1/events").json()["items"][-1]["kind"] == "ended"
    assert catalogue(tmp_path, "SELECT count(*) FROM streams") == [(0,)]


def test_a_stream_that_another_process_uses_is_neither_ended_nor_taken_from_it(bundle, tmp_path):
    second = 1.0 / 86_400
    with application(tmp_path, bundle, sharded=True, end_after_days=second) as api:
        api.create(id="s", durability="sync")
        api.infer(images(2), "s")
        rest(api, "s")
        with application(tmp_path, bundle, sharded=True) as another:
            another.infer(images(2, 1), "s")
            resting = api.app.state.services.residence.table.resting
            wait(api, lambda: resting["s"].generation == 2)  # it has been looked at

            answer = another.infer(images(2, 2), "s")
            assert answer["parameters"]["tta_generation"] == 3
            assert "fenced" not in {event["kind"] for event in another("GET", "/v1/events").json()["items"]}


def test_streams_used_longest_ago_rest_when_the_memory_is_full(bundle, tmp_path):
    with application(tmp_path, bundle, resident_bytes=3 * 40_000) as api:
        for number in range(8):
            api.infer(images(2, number), f"s{number}")
        table = api.app.state.services.residence.table
        wait(api, lambda: len(table) <= 3)

        assert "s7" not in table.resting
        assert len(api.ids()) == 8
        rows = {row["id"]: row["badge"] for row in api("GET", "/v1/overview").json()["streams"]}
        assert rows["s0"] == "resting"
        answers = [api.infer(images(2, 50 + number), f"s{number}") for number in range(8)]
        assert [answer["parameters"]["tta_generation"] for answer in answers] == [2] * 8


def test_room_is_made_as_soon_as_one_stream_too_many_is_made_or_comes_back(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_cache, "LOOK_SECONDS", 3600.0)
    with application(tmp_path, bundle, resident_bytes=3 * 40_000) as api:
        table = api.app.state.services.residence.table
        for number in range(3):
            api.create(id=f"s{number}")
        for name in ("s3", "s4", "s0", "s1", "s2"):  # made by a request, or brought back by one
            api.infer(images(2), name)
            wait(api, lambda: len(table) <= 3)
            assert name not in table.resting
        api.create(id="s5")
        wait(api, lambda: len(table) <= 3)
        assert "s5" not in table.resting


def test_however_many_streams_come_there_is_a_break_between_two_looks(api, monkeypatch):
    there, looks = api.app.state.services.residence, []
    api.infer(images(2), "s")
    monkeypatch.setattr(there, "make_room", lambda: asyncio.sleep(0, looks.append(time.monotonic())))
    monkeypatch.setattr(there, "_free", 0.0)

    async def come():
        for _ in range(50):
            there.note(there.table.find("s"))
            await asyncio.sleep(stream_cache.BREAK_SECONDS / 10)

    api._runner.run(come())

    assert len(looks) > 1
    breaks = [after - before for before, after in pairwise(looks)]
    assert min(breaks) >= 0.9 * stream_cache.BREAK_SECONDS


def test_many_requests_at_once_bring_a_resting_stream_back_once(api):
    api.infer(images(2), "s")
    rest(api, "s")

    answers = api.together(*[("POST", INFER, {"json": infer_body(images(2, seed), "s")}) for seed in range(6)])

    assert [answer.status_code for answer in answers] == [200] * 6
    assert sorted(answer.json()["parameters"]["tta_generation"] for answer in answers) == [2, 3, 4, 5, 6, 7]


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


def test_a_frozen_stream_that_rested_before_it_learned_anything_still_knows_its_answers(api):
    api.create(id="s", mode="frozen", idempotent=True)
    api.infer(images(2), "s", "first")
    answer = api.infer(images(2, 1), "s", "second")
    rest(api, "s")

    assert api("POST", INFER, json=infer_body(images(2, 5), "s", "first")).status_code == 409
    assert api.infer(images(2, 1), "s", "second") == answer


def test_a_stream_that_is_used_while_it_is_put_to_rest_stays_and_may_go_on_beyond(api, tmp_path):
    api.create(id="s")
    api.infer(images(2), "s")
    there = api.app.state.services.residence
    stream = there.table.find("s")

    async def interrupted():
        (taken,) = await there._keeper.keep([stream], final=True)
        counters = stream.current.counters
        stream.current = replace(stream.current, counters=replace(counters, requests=counters.requests + 1))
        there._rest(taken)

    api._runner.run(interrupted())

    assert there.table.find("s") is stream
    wait(api, lambda: catalogue(tmp_path, "SELECT ceiling FROM streams") == [(1 + HEADROOM,)])


def test_an_ephemeral_stream_of_a_first_request_keeps_its_state_over_a_rest(bundle, tmp_path):
    with application(tmp_path, bundle, durability="ephemeral") as api:
        api.infer(images(2), "s")
        wait(api, lambda: api.app.state.services.residence.table.find("s").stored.claim is not None)
        rest(api, "s")
        assert api.stream("s")["steps"] == 1


def test_an_unfit_stream_that_is_asked_for_again_and_again_stays_as_it_is(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.infer(images(2), "s")
    connection = sqlite3.connect(tmp_path / "data" / "acclimate.db", isolation_level=None)
    connection.execute("UPDATE streams SET fingerprint = 'other'")
    connection.close()
    with application(tmp_path, bundle) as api:
        before = catalogue(tmp_path, "SELECT epoch, ceiling FROM streams")
        assert [api("GET", "/v1/streams/s").status_code for _ in range(3)] == [422] * 3
        assert catalogue(tmp_path, "SELECT epoch, ceiling FROM streams") == before
