"""The control plane over HTTP."""

from itertools import chain

import numpy as np
import pytest

from service.storage.snapshots.format import pack, unpack
from tests.applications import OCTETS, assert_error, facts
from tests.serving import images, outputs


def pages(api, path, limit):
    """Walk a list page by page; return the ids of each page."""
    found, after = [], ""
    while True:
        page = api("GET", f"{path}?limit={limit}&after={after}").json()
        found.append([item["id"] for item in page["items"]])
        if page["next"] is None:
            return found
        after = page["next"]


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (5, [5]), (4, [4, 1]), (100, [5])])
def test_streams_are_listed_by_id_in_pages(api, limit, sizes):
    for stream in ("b", "a", "e", "c.1", "d"):
        api.create(id=stream)

    found = pages(api, "/v1/streams", limit)

    assert [len(page) for page in found] == sizes
    assert list(chain.from_iterable(found)) == ["a", "b", "c.1", "d", "e"]


def test_no_streams_are_one_empty_page(api):
    assert api("GET", "/v1/streams").json() == {"items": [], "next": None}


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (5, [5])])
def test_a_streams_snapshots_are_listed_newest_first_in_pages(api, limit, sizes):
    for stream in ("s", "other"):
        api.create(id=stream)
    taken = [api("POST", "/v1/streams/s/snapshots", json={"name": f"n{number}"}).json() for number in range(5)]
    api("POST", "/v1/streams/other/snapshots")

    found = pages(api, "/v1/streams/s/snapshots", limit)

    assert [len(page) for page in found] == sizes
    assert list(chain.from_iterable(found)) == [snapshot["id"] for snapshot in reversed(taken)]


def test_a_created_stream_is_as_asked(api):
    options = {"eta": {"lr": 0.01}, "seed": 7}
    body = {"id": "s", "adapter": "eta+unmix_tns", "options": options, "mode": "shadow", "adapt_batch_size": 16}

    created = api.create(**body)

    assert created == api.stream("s")
    expected = {
        **body,
        "adapter": "unmix_tns+eta",
        "model": "reference",
        "generation": 0,
        "steps": 0,
        "waiting_images": 0,
    }
    assert {name: created[name] for name in expected} == expected
    assert created["state_bytes"] > 0
    assert created["signals"] == {}


def test_a_stream_without_id_gets_one_and_without_model_the_only_one(api):
    ids = {api("POST", "/v1/streams", json={}).json()["id"] for _ in range(3)}

    assert len(ids) == 3
    assert sorted(ids) == api.ids()


def test_the_generation_is_the_etag_and_if_match_lets_the_right_one_through(api):
    api.infer(images(4), "s")
    etag = api("GET", "/v1/streams/s").headers["etag"]

    changed = api("POST", "/v1/streams/s/reset", headers={"If-Match": etag})
    anyway = api("POST", "/v1/streams/s/reset", headers={"If-Match": "*"})
    plain = api("PATCH", "/v1/streams/s", json={"mode": "frozen"}, headers={"If-Match": "3"})
    gone = api("DELETE", "/v1/streams/s", headers={"If-Match": '"3"'})

    assert etag == '"1"'
    assert [response.status_code for response in (changed, anyway, plain, gone)] == [200, 200, 200, 204]
    assert (changed.json()["generation"], anyway.json()["generation"]) == (2, 3)
    assert api.ids() == []


def test_a_reset_stream_answers_as_a_new_one(api):
    new = api.infer(images(4, 9), "new")
    for seed in range(3):
        api.infer(images(4, seed), "s")

    told = api("POST", "/v1/streams/s/reset").json()
    answer = api.infer(images(4, 9), "s")

    assert (told["generation"], told["steps"], told["signals"]) == (4, 0, {})
    assert np.array_equal(outputs(answer)["logits"], outputs(new)["logits"])


def test_a_change_of_mode_keeps_state_and_generation(api):
    api.infer(images(4), "s")

    frozen = api("PATCH", "/v1/streams/s", json={"mode": "frozen"}).json()
    answers = [api.infer(images(4, 1), "s") for _ in range(2)]
    api("PATCH", "/v1/streams/s", json={"mode": "adapt"})
    adapted = api.infer(images(4, 1), "s")

    assert (frozen["mode"], frozen["generation"], frozen["steps"]) == ("frozen", 1, 1)
    assert answers[0]["outputs"] == answers[1]["outputs"]
    assert facts(answers[1])["tta_generation"] == 1
    assert facts(adapted)["tta_generation"] == 2


def test_a_shadow_stream_answers_as_a_source_stream(api):
    api.create(id="source", adapter="source", mode="frozen")
    api.create(id="shadow", mode="shadow")

    answers = [[api.infer(images(4, seed), stream) for seed in range(3)] for stream in ("source", "shadow")]

    for source, shadow in zip(*answers, strict=True):
        assert source["outputs"] == shadow["outputs"]
    assert facts(shadow)["tta_steps"] == 3
    assert facts(shadow)["tta_source_age"] == 0


def test_a_new_adapter_starts_from_its_initial_state(api):
    for seed in range(2):
        api.infer(images(4, seed), "s")
    api.create(id="new", adapter="unmix_tns")

    changed = api("PATCH", "/v1/streams/s", json={"adapter": "unmix_tns"}).json()
    answers = [api.infer(images(4, 9), stream) for stream in ("s", "new")]

    assert (changed["adapter"], changed["steps"], changed["generation"]) == ("unmix_tns", 0, 3)
    assert answers[0]["outputs"] == answers[1]["outputs"]


def test_other_options_keep_what_was_learned(api):
    for stream in ("s", "twin"):
        for seed in range(2):
            api.infer(images(4, seed), stream)

    changed = api("PATCH", "/v1/streams/s", json={"options": {"tent": {"lr": 0.5}}}).json()
    answers = [api.infer(images(4, 9), stream) for stream in ("s", "twin")]
    later = [api.infer(images(4, 10), stream) for stream in ("s", "twin")]

    assert (changed["options"], changed["steps"], changed["generation"]) == ({"tent": {"lr": 0.5}}, 2, 3)
    assert answers[0]["outputs"] == answers[1]["outputs"]
    assert later[0]["outputs"] != later[1]["outputs"]


def test_options_under_which_the_state_has_another_shape_start_anew(api):
    api.infer(images(4), "s")

    changed = api("PATCH", "/v1/streams/s", json={"options": {"tent": {"optimizer": "sgd"}}}).json()

    assert (changed["steps"], changed["generation"]) == (0, 2)


def test_a_change_of_the_adaptation_batch_holds_from_the_next_request_on(api):
    api.infer(images(4), "s")

    changed = api("PATCH", "/v1/streams/s", json={"adapt_batch_size": 3}).json()
    queued = api.infer(images(2), "s")
    api("PATCH", "/v1/streams/s", json={"adapt_batch_size": 1})
    after = api.infer(images(1, 3), "s")

    assert (changed["adapt_batch_size"], changed["generation"]) == (3, 1)
    assert (facts(queued)["tta_action"], facts(queued)["tta_generation"]) == ("queued", 1)
    assert (facts(after)["tta_action"], facts(after)["tta_generation"]) == ("kept", 3)


def test_an_empty_change_changes_nothing(api):
    api.infer(images(4), "s")
    before = api.everything()

    assert api("PATCH", "/v1/streams/s", json={}).status_code == 200
    assert api("PATCH", "/v1/streams/s", json={"mode": None, "adapter": None, "options": None}).status_code == 200

    assert api.everything() == before


def test_an_ended_stream_is_gone_and_its_snapshots_stay(api):
    api.infer(images(4), "s")
    kept = api("POST", "/v1/streams/s/snapshots").json()

    ended = api("DELETE", "/v1/streams/s")

    assert (ended.status_code, ended.content) == (204, b"")
    assert_error(api("GET", "/v1/streams/s"), 404, "there is no stream 's'")
    assert api("GET", f"/v1/snapshots/{kept['id']}").json() == kept


def test_a_snapshot_is_taken_told_downloaded_restored_uploaded_and_removed(api):
    api.create(id="s", adapter="unmix_tns+tent", options={"seed": 3})
    api.infer(images(4, 1), "s")
    taken = api("POST", "/v1/streams/s/snapshots", json={"name": "kept", "note": "before"})
    expected = [api.infer(images(4, seed), "s")["outputs"] for seed in (5, 6)]

    kept = taken.json()
    file = api("GET", f"/v1/snapshots/{kept['id']}/download")
    restored = api("POST", "/v1/streams/s/restore", json={"snapshot": kept["id"]})
    again = [api.infer(images(4, seed), "s")["outputs"] for seed in (5, 6)]
    removed = api("DELETE", f"/v1/snapshots/{kept['id']}")
    missing = api("GET", f"/v1/snapshots/{kept['id']}")
    uploaded = api("POST", "/v1/snapshots", content=file.content, headers=OCTETS)

    assert taken.status_code == 201
    assert (kept["stream"], kept["name"], kept["note"], kept["generation"], kept["steps"]) == (
        "s",
        "kept",
        "before",
        1,
        1,
    )
    assert (kept["model"], kept["adapter"], kept["contains_inputs"]) == ("reference", "unmix_tns+tent", False)
    assert kept["bytes"] == len(file.content)
    assert f"{kept['id']}.safetensors" in file.headers["content-disposition"]
    told = restored.json()
    assert (restored.status_code, told["generation"], told["steps"], told["tta_warning"]) == (200, 4, 1, "")
    assert again == expected
    assert (removed.status_code, missing.status_code) == (204, 404)
    assert (uploaded.status_code, uploaded.json()) == (201, kept)


def test_taking_a_snapshot_makes_the_generation_durable_and_changes_nothing_else(api):
    api.infer(images(4), "s")
    before = api.stream("s")

    api("POST", "/v1/streams/s/snapshots")

    after = api.stream("s")
    assert (before["durable_generation"], after["durable_generation"]) == (0, 1)
    assert after | {"durable_generation": 0} == before
    assert facts(api.infer(images(4, 1), "s"))["tta_durable_generation"] == 1


def test_a_damaged_snapshot_is_refused_and_the_stream_goes_on(api):
    api.infer(images(4), "s")
    kept = api("POST", "/v1/streams/s/snapshots").json()
    file = bytearray(api("GET", f"/v1/snapshots/{kept['id']}/download").content)
    file[-1] ^= 1
    before = api.everything()

    response = api("POST", "/v1/snapshots", content=bytes(file), headers=OCTETS)

    assert_error(response, 422, "sha256 does not match")
    assert api.everything() == before


def test_an_upload_never_takes_the_place_of_another_snapshot(api):
    api.infer(images(4), "s")
    kept = api("POST", "/v1/streams/s/snapshots").json()
    file = api("GET", f"/v1/snapshots/{kept['id']}/download").content
    manifest, tensors = unpack(file)
    forged = pack(manifest.model_copy(update={"note": "another"}), tensors)

    refused = api("POST", "/v1/snapshots", content=forged, headers=OCTETS)
    again = api("POST", "/v1/snapshots", content=file, headers=OCTETS)

    assert_error(refused, 409, f"another snapshot has the id '{kept['id']}'")
    assert (again.status_code, again.json()) == (201, kept)
    assert api("GET", f"/v1/snapshots/{kept['id']}/download").content == file


def test_a_snapshot_may_leave_out_the_images_that_wait(api):
    api.create(id="s", adapt_batch_size=8)
    api.infer(images(3), "s")

    kept, dropped = (api("POST", "/v1/streams/s/snapshots", json={"inputs": what}).json() for what in ("keep", "drop"))
    waiting = [
        api("POST", "/v1/streams/s/restore", json={"snapshot": taken["id"]}).json()["waiting_images"]
        for taken in (kept, dropped)
    ]

    assert [(taken["contains_inputs"], taken["exact"]) for taken in (kept, dropped)] == [(True, True), (False, False)]
    assert waiting == [3, 0]


def test_steps_that_lead_too_far_are_thrown_away_and_told_those_on_waiting_images_too(api):
    api.create(id="s", adapt_batch_size=4, guard={"distance": "skip", "max_distance": 1e-6})
    api.infer(images(2), "s")

    answer = api.infer(images(4, 1), "s")

    events = [event for event in api("GET", "/v1/events").json()["items"] if event["kind"] == "guard"]
    stream = api.stream("s")
    assert answer["parameters"]["tta_action"] == "skipped"
    assert (stream["steps"], stream["waiting_images"]) == (0, 0)
    assert [event["action"] for event in events] == ["skipped", "skipped"]
    assert all("from the source's, allowed are 0.0001 %" in event["reason"] for event in events)
    assert sum(event["reason"].startswith("on images that had waited: ") for event in events) == 1


def test_a_restore_onto_another_spec_is_refused_and_under_other_options_warned_of(api):
    for stream, adapter, options in (
        ("s", "batch+tent", {}),
        ("eta", "batch+eta", {}),
        ("fast", "batch+tent", {"tent": {"lr": 1}}),
    ):
        api.create(id=stream, adapter=adapter, options=options)
        api.infer(images(4), stream)
    kept = {"snapshot": api("POST", "/v1/streams/s/snapshots").json()["id"]}
    before = api.stream("eta")

    refused = api("POST", "/v1/streams/eta/restore", json=kept)
    warned = api("POST", "/v1/streams/fast/restore", json=kept)

    assert_error(refused, 422, "the snapshot is of 'batch+tent', stream 'eta' runs 'batch+eta'")
    assert api.stream("eta") == before
    assert warned.status_code == 200
    assert "other options" in warned.json()["tta_warning"]
