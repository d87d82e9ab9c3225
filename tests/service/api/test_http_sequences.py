"""Streams, sequences and retries over HTTP."""

import json

import numpy as np
import pytest

from tests.applications import INFER, OCTETS, application, facts
from tests.serving import images, infer_body, outputs


def test_a_stream_not_seen_before_is_created_with_the_models_default(api):
    answer = api.infer(images(4), "camera-7")

    told = api.stream("camera-7")
    assert (told["model"], told["adapter"], told["mode"], told["options"]) == ("reference", "batch+tent", "adapt", {})
    assert (told["generation"], told["steps"], told["waiting_images"], told["adapt_batch_size"]) == (1, 1, 0, 1)
    assert told["signals"].keys() >= {"entropy", "drift", "source_agreement", "source_age"}
    assert (answer["model_name"], answer["model_version"]) == ("reference", "1")


def test_an_answer_tells_flat_facts_that_agree_with_its_outputs(api):
    api.infer(images(4, 1), "s")

    answer = api.infer(images(4, 2), "s")

    told, given = facts(answer), outputs(answer)
    assert told.keys() >= {"tta_entropy", "tta_drift", "tta_source_agreement", "tta_source_age"}
    assert "tta_warning" not in told
    expected = {
        "tta_generation": 2, "tta_answered_generation": 1, "tta_durable_generation": 0, "tta_steps": 2,
        "tta_adapter": "batch+tent", "tta_backend": "torch", "tta_mode": "adapt", "tta_action": "kept",
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert all(isinstance(value, str | int | float | bool) for value in told.values())
    assert list(given) == ["logits", "probabilities", "labels"]
    np.testing.assert_allclose(given["probabilities"].sum(1), 1, atol=1e-6)
    assert np.array_equal(given["labels"], given["probabilities"].argmax(1))
    entropy = -(given["probabilities"] * np.log(given["probabilities"])).sum(1).mean()
    assert told["tta_entropy"] == pytest.approx(entropy, abs=1e-5)


def test_outputs_come_as_asked_and_the_sources_only_on_request(api):
    body = infer_body(images(3), "s") | {"outputs": [{"name": "source_probabilities"}, {"name": "labels"}]}

    answer = api("POST", INFER, json=body).json()

    assert [(o["name"], o["datatype"], o["shape"]) for o in answer["outputs"]] == [
        ("source_probabilities", "FP32", [3, 10]),
        ("labels", "INT64", [3]),
    ]
    assert facts(answer)["tta_source_age"] == 0


def test_an_id_that_the_server_made_is_a_new_request_when_a_client_sends_it(api):
    made = api.infer(images(4), "s")["id"]

    again = api.infer(images(4), "s", made)
    retried = api.infer(images(4), "s", made)

    assert facts(again)["tta_generation"] == 2
    assert retried == again


@pytest.mark.parametrize("way", ["string", "integer", "header"])
def test_seven_is_one_stream_however_it_is_written(api, way):
    api.infer(images(4, 1), "7")

    again = {
        "string": lambda: api.infer(images(4, 2), "7"),
        "integer": lambda: api.infer(images(4, 2), sequence_id=7),
        "header": lambda: api.infer(images(4, 2), headers={"X-Stream-Id": "7"}),
    }[way]()

    assert facts(again)["tta_generation"] == 2
    assert api.ids() == ["7"]


def test_header_and_body_may_name_the_same_stream(api):
    answer = api.infer(images(4), "7", headers={"X-Stream-Id": "7"})

    assert facts(answer)["tta_generation"] == 1
    assert api.ids() == ["7"]


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 0}, {"sequence_id": ""}], ids=["none", "zero", "empty"])
def test_without_a_stream_id_the_shared_default_stream_answers_frozen_and_warns(api, parameters):
    api.infer(images(4, 5), "named")

    first, second = api.infer(images(4, 1), **parameters), api.infer(images(4, 2), **parameters)

    for answer in (first, second):
        told = facts(answer)
        assert (told["tta_mode"], told["tta_action"]) == ("frozen", "frozen")
        assert (told["tta_generation"], told["tta_steps"]) == (0, 0)
        assert "sequence_id" in told["tta_warning"]
        assert "'default.reference'" in told["tta_warning"]
    assert api.ids() == ["default.reference", "named"]


def test_sequence_start_begins_from_the_source_state(api):
    fresh = api.infer(images(4, 9), "fresh")
    for seed in range(3):
        api.infer(images(4, seed), "s")

    started = api.infer(images(4, 9), "s", sequence_start=True)

    assert np.array_equal(outputs(started)["logits"], outputs(fresh)["logits"])
    assert (facts(started)["tta_steps"], facts(started)["tta_generation"]) == (1, 5)
    assert facts(started)["tta_answered_generation"] == 4


def test_sequence_start_false_does_nothing_and_true_on_a_new_stream_costs_no_generation(api):
    first = api.infer(images(4), "s", sequence_start=True)
    second = api.infer(images(4, 1), "s", sequence_start=False)

    assert [facts(answer)["tta_generation"] for answer in (first, second)] == [1, 2]
    assert facts(second)["tta_steps"] == 2


def test_sequence_end_answers_and_then_releases_the_stream(api):
    api.infer(images(4, 1), "s")

    last = api.infer(images(4, 2), "s", sequence_end=True)

    assert facts(last)["tta_generation"] == 2
    assert api.ids() == []
    assert facts(api.infer(images(4, 3), "s"))["tta_generation"] == 1


def test_a_whole_sequence_may_be_one_request(api):
    answer = api.infer(images(4), "s", sequence_start=True, sequence_end=True)

    assert facts(answer)["tta_generation"] == 1
    assert api.ids() == []


def test_sequence_start_clears_what_waits_in_the_window(api):
    api.create(id="s", adapt_batch_size=8)
    api.infer(images(3), "s")

    api.infer(images(2), "s", sequence_start=True)

    told = api.stream("s")
    assert (told["waiting_images"], told["steps"], told["generation"]) == (2, 0, 1)


def test_a_full_window_is_learned_after_the_answer(api):
    api.create(id="s", adapt_batch_size=4)

    queued = [api.infer(images(2, seed), "s") for seed in range(2)]
    after = api.infer(images(1, 5), "s")

    assert [facts(answer)["tta_action"] for answer in [*queued, after]] == ["queued"] * 3
    assert [facts(answer)["tta_generation"] for answer in [*queued, after]] == [0, 0, 1]
    assert facts(after)["tta_answered_generation"] == 1
    assert api.stream("s")["waiting_images"] == 1


def test_a_request_id_is_echoed_and_made_where_none_is_given(api):
    given = api.infer(images(1), "s", "my-id")
    made = [api.infer(images(1, seed), "s")["id"] for seed in range(3)]

    assert given["id"] == "my-id"
    assert len({*made, "my-id", ""}) == 5


@pytest.mark.parametrize("form", ["json", "binary"])
def test_a_retry_gets_the_identical_answer_and_does_not_adapt_twice(api, form):
    settings = {"json": infer_body(images(4), "s", "r-1")}
    if form == "binary":
        body = infer_body(images(4), "s", "r-1", binary_data_output=True)
        settings = {"content": json.dumps(body).encode(), "headers": OCTETS}
    first = api("POST", INFER, **settings)
    api.infer(images(4, 1), "s", "r-2")

    retried = api("POST", INFER, **settings)

    assert first.status_code == retried.status_code == 200
    assert retried.content == first.content
    assert api.stream("s")["generation"] == 2


def test_a_retry_with_sequence_start_does_not_start_again(api):
    api.infer(images(4, 1), "s")
    body = infer_body(images(4, 2), "s", "r", sequence_start=True)
    first = api("POST", INFER, json=body)
    api.infer(images(4, 3), "s")

    assert api("POST", INFER, json=body).content == first.content
    assert api.stream("s")["steps"] == 2


def test_retries_sent_at_the_same_time_get_one_answer(api):
    call = ("POST", INFER, {"json": infer_body(images(4), "s", "r")})

    answers = api.together(*[call] * 6)

    assert len({answer.content for answer in answers}) == 1
    assert api.stream("s")["generation"] == 1


def test_request_ids_are_of_one_stream(api):
    one, other = api.infer(images(4), "one", "r"), api.infer(images(4, 1), "other", "r")

    assert facts(one)["tta_generation"] == facts(other)["tta_generation"] == 1


@pytest.mark.parametrize("change", ["reset", "restore"])
def test_after_a_reset_or_restore_a_retry_is_a_new_request(api, change):
    kept = api.infer(images(4), "s", "r")
    snapshot = api("POST", "/v1/streams/s/snapshots").json()["id"]
    body = {"json": {"snapshot": snapshot}} if change == "restore" else {}
    assert api("POST", f"/v1/streams/s/{change}", **body).status_code == 200

    again = api.infer(images(4, 1), "s", "r")

    assert again["id"] == kept["id"]
    assert facts(again)["tta_generation"] == 3


def test_a_long_forgotten_request_id_is_new(bundles, tmp_path):
    with application(tmp_path, bundles[0], retry_entries=2) as api:
        for number in range(3):
            api.infer(images(1, number), "s", f"r-{number}")

        again = api.infer(images(1, 0), "s", "r-0")
        retried = api.infer(images(1, 2), "s", "r-2")

    assert (facts(again)["tta_generation"], facts(retried)["tta_generation"]) == (4, 3)
