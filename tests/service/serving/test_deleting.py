"""A stream that cannot be brought back can be ended all the same."""

import asyncio
import sqlite3
import time

import pytest

from tests.applications import INFER, application, assert_error
from tests.bundles import torch_bundle
from tests.serving import images, infer_body
from tests.stored import catalogue, rest, wait


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


def of_a_model_not_served(folder):
    changed(folder, "UPDATE streams SET model = 'gone' WHERE id = 's'")


def of_another_bundle(folder):
    changed(folder, "UPDATE streams SET fingerprint = 'other' WHERE id = 's'")


def of_an_adapter_that_is_none(folder):
    changed(folder, "UPDATE streams SET adapter = 'of+a+later+version' WHERE id = 's'")


def damaged(folder):
    ((blob,),) = catalogue(folder, "SELECT blob FROM streams WHERE id = 's'")
    (folder / "data" / "checkpoints" / blob).write_bytes(b"broken")


def changed(folder, statement):
    connection = sqlite3.connect(folder / "data" / "acclimate.db", isolation_level=None)
    connection.execute(statement)
    connection.close()


def kept(folder):
    return catalogue(folder, "SELECT id FROM streams ORDER BY id"), catalogue(folder, "SELECT stream FROM answers")


@pytest.mark.parametrize("harm", [of_a_model_not_served, of_another_bundle, of_an_adapter_that_is_none, damaged])
def test_a_stream_that_cannot_be_brought_back_can_be_deleted(bundle, tmp_path, harm):
    with application(tmp_path, bundle) as api:
        for stream in ("s", "other"):
            api.infer(images(2), stream, "once")
        snapshot = api("POST", "/v1/streams/s/snapshots").json()["id"]
    harm(tmp_path)
    with application(tmp_path, bundle) as api:
        shown = {stream["id"]: stream["generation"] for stream in api("GET", "/v1/streams").json()["items"]}["s"]
        assert api("GET", "/v1/streams/s").status_code == 422
        as_shown = {"If-Match": f'"{shown}"'}
        assert api("DELETE", "/v1/streams/s?dry_run=true", headers=as_shown).status_code == 204
        assert api.ids() == ["other", "s"]

        assert api("DELETE", "/v1/streams/s", headers=as_shown).status_code == 204
        assert api.ids() == ["other"]
        assert kept(tmp_path) == ([("other",)], [("other",)])
        assert_error(api("GET", "/v1/streams/s"), 404, "there is no stream 's'")
        assert_error(api("DELETE", "/v1/streams/s"), 404, "there is no stream 's'")
        assert_error(api("DELETE", "/v1/streams/s?dry_run=true"), 404, "there is no stream 's'")
        assert api("GET", f"/v1/snapshots/{snapshot}").status_code == 200
        told = api("GET", "/v1/events?stream=s").json()["items"][-1]
        assert (told["kind"], told["reason"]) == ("deleted", "at generation 1; its snapshots stay, by 127.0.0.1")
        assert api.infer(images(2), "s")["parameters"]["tta_generation"] == 1


def test_a_resting_stream_is_deleted_at_its_generation_alone(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        for seed in range(3):
            api.infer(images(2, seed), "s")
        rest(api, "s")
        for path in ("/v1/streams/s", "/v1/streams/s?dry_run=true"):
            refused = api("DELETE", path, headers={"If-Match": '"2"'})
            assert_error(refused, 412, "stream 's' is at generation 3, not 2")
        assert catalogue(tmp_path, "SELECT generation, ceiling FROM streams") == [(3, 3)]
        assert api("DELETE", "/v1/streams/s", headers={"If-Match": '"3"'}).status_code == 204
        assert api("GET", "/v1/streams/s").status_code == 404


def test_a_stream_that_another_process_deleted_is_unknown(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.infer(images(2), "s")
        rest(api, "s")
        changed(tmp_path, "DELETE FROM streams")
        assert_error(api("DELETE", "/v1/streams/s"), 404, "there is no stream 's'")
        assert api.ids() == []


@pytest.mark.parametrize("how", ["deleted", "ended"])
def test_a_new_stream_of_an_ended_ones_id_keeps_what_it_learns(bundle, tmp_path, how):
    with application(tmp_path, bundle) as api:
        api.create(id="s", durability="ephemeral")
        api.infer(images(2), "s")
    with application(tmp_path, bundle, end_after_days=60 / 86_400) as api:
        if how == "deleted":
            assert api("DELETE", "/v1/streams/s").status_code == 204
        else:
            api.app.state.services.residence._used["s"] = time.monotonic() - 61
            wait(api, lambda: not api.app.state.services.residence.table.knows("s"))
        api.create(id="s", durability="ephemeral")
        api.infer(images(2), "s")
        rest(api, "s")
        assert api.stream("s")["steps"] == 1
        kinds = [event["kind"] for event in api("GET", "/v1/events?stream=s").json()["items"]]
        assert kinds == ["created", how, "created"]


def test_requests_and_a_deletion_at_once_leave_no_half_of_a_resting_stream(bundle, tmp_path):
    with application(tmp_path, bundle, durability="sync") as api:
        api.infer(images(2), "s")
        rest(api, "s")
        asked = ("POST", INFER, {"json": infer_body(images(2, 1), "s")})
        answers = api.together(asked, ("DELETE", "/v1/streams/s", {}), asked)
        assert {answer.status_code for answer in answers} <= {200, 204, 404}
        assert answers[1].status_code == 204
        there = api("GET", "/v1/streams/s")
        rows = catalogue(tmp_path, "SELECT id FROM streams")
        assert rows == ([("s",)] if there.status_code == 200 else [])
        assert api.infer(images(2, 2), "s")["parameters"]["tta_generation"] > 0


def test_a_stream_that_is_being_ended_as_unused_does_not_come_back_meanwhile(bundle, tmp_path, monkeypatch):
    with application(tmp_path, bundle, end_after_days=60 / 86_400) as api:
        residence = api.app.state.services.residence
        api.infer(images(2), "s")
        rest(api, "s")
        residence._used["s"] = time.monotonic() - 61
        store = residence._keeper.checkpoints.catalogue
        claim, pauses = store.claim, [0.5]

        def slow_at_first(stream_id):
            time.sleep(pauses.pop() if pauses else 0)
            return claim(stream_id)

        monkeypatch.setattr(store, "claim", slow_at_first)

        async def both():
            return await asyncio.gather(residence.end_unused(), residence.find("s"))

        assert api._runner.run(both()) == [None, None]
        assert api.ids() == []
        assert catalogue(tmp_path, "SELECT id FROM streams") == []
