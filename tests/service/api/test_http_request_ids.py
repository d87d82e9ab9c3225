"""Request ids and idempotency keys: what is a retry, what is a new request, and what is a conflict."""

import json

import numpy as np
import pytest

from tests.applications import INFER, OCTETS, application, assert_error, facts
from tests.serving import images, infer_body

KEY = "Idempotency-Key"


def send(api, x, stream="s", request_id=None, key=None, **parameters):
    headers = {} if key is None else {KEY: key}
    return api("POST", INFER, json=infer_body(x, stream, request_id, **parameters), headers=headers)


def label(api, stream, **labels):
    items = [{"request": request, "labels": given} for request, given in labels.items()]
    return api("POST", f"/v1/streams/{stream}/feedback", json={"items": items}).json()


def answered_labels(response):
    return next(output["data"] for output in response.json()["outputs"] if output["name"] == "labels")


def test_clients_that_number_from_one_share_a_stream(api):
    answers = [send(api, images(2, seed), "", str(number)) for seed in range(2) for number in (1, 2)]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json()["id"] for answer in answers] == ["1", "2", "1", "2"]


def test_a_constant_id_with_other_bodies_learns_from_each(api):
    answers = [send(api, images(4, seed), request_id="42") for seed in range(3)]

    assert [facts(answer.json())["tta_generation"] for answer in answers] == [1, 2, 3]


def test_every_body_of_a_repeated_id_can_be_sent_again(api):
    first = [send(api, images(4, seed), request_id="42") for seed in range(3)]

    again = [send(api, images(4, seed), request_id="42") for seed in (1, 0, 2)]

    assert [answer.content for answer in again] == [first[seed].content for seed in (1, 0, 2)]
    assert api.stream("s")["generation"] == 3


def test_bodies_of_one_id_that_come_at_the_same_time_are_answered_once_each(api):
    calls = [("POST", INFER, {"json": infer_body(images(4, seed), "s", "42")}) for seed in (0, 1, 0, 1, 0)]

    answers = api.together(*calls)

    assert len({answer.content for answer in answers}) == 2
    assert api.stream("s")["generation"] == 2


def test_late_labels_of_a_repeated_id_go_to_its_newest_answer(api):
    send(api, images(2, 0), request_id="42")
    newest = send(api, images(5, 1), request_id="42")
    send(api, images(2, 0), request_id="42")  # a retry of the older one, which answers nothing new

    said = label(api, "s", **{"42": answered_labels(newest)})

    assert (said["accepted"], said["unknown"], said["accuracy"]) == (5, [], 1.0)
    assert label(api, "s", **{"42": [0, 0]})["unknown"] == ["42"]


def test_a_key_with_the_same_body_gets_the_first_answer_without_any_id(api):
    first = send(api, images(4), key="key-1")

    again = send(api, images(4), key="key-1")

    assert again.content == first.content
    assert api.stream("s")["generation"] == 1


@pytest.mark.parametrize("ids", [("r1", "r1"), ("r1", "r2"), (None, None)], ids=["one_id", "two_ids", "no_id"])
def test_a_key_with_another_body_is_a_conflict_that_changes_nothing(api, ids):
    send(api, images(4, 0), request_id=ids[0], key="key-1")
    before = api.everything()

    refused = send(api, images(4, 1), request_id=ids[1], key="key-1")

    assert_error(refused, 409, "the Idempotency-Key 'key-1' was used for another body; expected a new key or the same")
    assert api.everything() == before


def test_another_key_is_another_request_whatever_its_id_and_body(api):
    first = [send(api, images(4), request_id="42", key=key) for key in ("key-1", "key-2")]

    again = [send(api, images(4), request_id="42", key=key) for key in ("key-2", "key-1")]

    assert [facts(answer.json())["tta_generation"] for answer in first] == [1, 2]
    assert [answer.content for answer in again] == [first[1].content, first[0].content]


def test_a_request_with_a_key_can_be_sent_again_by_its_id_alone(api):
    first = send(api, images(4), request_id="r", key="key-1")

    assert send(api, images(4), request_id="r").content == first.content


def test_keys_are_of_one_stream(api):
    answers = [send(api, images(4, seed), stream, key="k") for seed, stream in enumerate(("one", "other"))]

    assert [answer.status_code for answer in answers] == [200, 200]


def test_images_and_forms_are_held_to_a_key_by_their_files(api, png):
    def form(file, key):
        return api(
            "POST", INFER, files=[("image", ("a.png", file, "image/png"))], headers={KEY: key, "X-Stream-Id": "s"}
        )

    first = form(png(0), "k")
    again = form(png(0), "k")  # in another boundary
    other = form(png(1), "k")
    plain = api("POST", INFER, content=png(2), headers={KEY: "p", "X-Stream-Id": "s", "Content-Type": "image/png"})
    wrong = api("POST", INFER, content=png(3), headers={KEY: "p", "X-Stream-Id": "s", "Content-Type": "image/png"})

    assert first.status_code == plain.status_code == 200
    assert again.content == first.content
    assert_error(other, 409, "the Idempotency-Key 'k' was used for another body")
    assert_error(wrong, 409, "the Idempotency-Key 'p' was used for another body")


@pytest.fixture
def png():
    from io import BytesIO

    from PIL import Image

    def encoded(seed):
        file = BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
        return file.getvalue()

    return encoded


@pytest.mark.parametrize(
    "key", ["", "k" * 256, "two words", "k\xe9", "k\t"], ids=["empty", "long", "space", "latin", "tab"]
)
def test_a_key_that_is_no_visible_ascii_of_bounded_length_is_refused(api, key):
    refused = api("POST", INFER, json=infer_body(images(1), "s"), headers={KEY: key.encode("latin-1")})

    assert_error(refused, 422, "Idempotency-Key is")
    assert api.ids() == []


def test_two_keys_are_refused(api):
    refused = api("POST", INFER, json=infer_body(images(1), "s"), headers=[(KEY, "a"), (KEY, "b")])

    assert_error(refused, 422, "Idempotency-Key is given 2 times, expected once")


@pytest.mark.parametrize("binary", [False, True])
def test_a_stream_that_asked_for_it_is_held_to_its_ids(api, binary):
    api.create(id="s", idempotent=True)
    bodies = [infer_body(images(4, seed), "s", "r", binary_data_output=binary) for seed in range(2)]
    first = api("POST", INFER, content=json.dumps(bodies[0]), headers=OCTETS)

    again = api("POST", INFER, content=json.dumps(bodies[0]), headers=OCTETS)
    refused = api("POST", INFER, content=json.dumps(bodies[1]), headers=OCTETS)

    assert first.status_code == 200
    assert again.content == first.content
    assert_error(refused, 409, "request id 'r' was used for another body; expected a new id or the same body")
    assert api.stream("s")["idempotent"] is True
    assert api.stream("s")["generation"] == 1


def test_a_stream_is_held_to_its_ids_from_the_change_on_and_no_longer_after_the_next(api):
    answers = [send(api, images(2, seed), request_id="r").status_code for seed in range(2)]
    api("PATCH", "/v1/streams/s", json={"idempotent": True})
    answers += [send(api, images(2, seed), request_id="r").status_code for seed in (0, 1, 2)]
    api("PATCH", "/v1/streams/s", json={"idempotent": False})
    answers += [send(api, images(2, 3), request_id="r").status_code]

    assert answers == [200, 200, 200, 200, 409, 200]


def test_ids_keys_and_the_setting_survive_a_restart(bundles, tmp_path):
    with application(tmp_path, bundles[0]) as api:
        api.create(id="s", durability="sync")
        api.create(id="held", durability="sync", idempotent=True)
        first = [send(api, images(4, seed), request_id="42").content for seed in range(2)]
        keyed = send(api, images(4, 2), key="key-1").content
        send(api, images(4), "held", "r")
    with application(tmp_path, bundles[0]) as api:
        again = [send(api, images(4, seed), request_id="42").content for seed in range(2)]
        same_key = send(api, images(4, 2), key="key-1").content
        refused = send(api, images(4, 3), key="key-1")
        resting = api("GET", "/v1/streams").json()["items"]
        refused_id = send(api, images(4, 1), "held", "r")

    assert again == first
    assert same_key == keyed
    assert_error(refused, 409, "the Idempotency-Key 'key-1' was used for another body")
    assert_error(refused_id, 409, "request id 'r' was used for another body")
    assert {stream["id"]: stream["idempotent"] for stream in resting} == {"s": False, "held": True}
