"""Streams of the selector `auto`, over HTTP: they say what they chose and why, and restore to it."""

from tests.applications import assert_error, facts
from tests.serving import images


def test_a_stream_of_auto_says_in_every_answer_what_runs_and_why(api):
    api.create(id="s", adapter="auto", options={"auto": {"decide_after": 8}})

    first = facts(api.infer(images(4), "s"))
    second = facts(api.infer(images(4, 1), "s"))

    assert first["tta_adapter"] == "auto"
    assert first["tta_choice"].startswith("opening (the mean of note_iabn+note and rotta_bn+eta): batches of 4")
    assert "decides after 4 more images" in first["tta_choice"]
    assert "decides after" not in second["tta_choice"]
    assert api.stream("s")["choice"] == second["tta_choice"]
    assert {"tta_label_correlation", "tta_drift_events"} <= set(second)


def test_a_model_without_source_artefacts_does_without_and_says_so(api):
    api.create(id="s", adapter="auto")

    assert "does without rotta_bn+rmt" in facts(api.infer(images(4), "s"))["tta_warning"]


def test_a_pipeline_chooses_nothing(api):
    assert "tta_choice" not in facts(api.infer(images(4), "s"))
    assert api.stream("s")["choice"] == ""


def test_what_was_chosen_is_snapshotted_and_restored_bit_for_bit(api):
    api.create(id="s", adapter="auto", options={"auto": {"decide_after": 8}})
    for seed in range(4):
        api.infer(images(4, seed), "s")
    kept = api("POST", "/v1/streams/s/snapshots", json={}).json()
    expected = [api.infer(images(4, seed), "s")["outputs"] for seed in (5, 6)]

    api("POST", "/v1/streams/s/reset")
    assert "nothing is known" in api.stream("s")["choice"]
    api("POST", "/v1/streams/s/restore", json={"snapshot": kept["id"]})

    assert [api.infer(images(4, seed), "s")["outputs"] for seed in (5, 6)] == expected


def test_auto_stands_alone_in_a_spec_and_is_listed(api):
    refused = api("POST", "/v1/streams", json={"model": "reference", "adapter": "auto+lame"})

    assert_error(refused, 422, "stands alone")
    listed = {part["name"]: part for part in api("GET", "/v1/adapters").json()["items"]}
    assert listed["auto"]["kind"] == "selector"
