"""The last answers of streams that have ended: given again to a client that did not get them."""

from itertools import count

import numpy as np
import pytest

from service.storage.backends.answers import Kept
from service.storage.backends.catalogue import Catalogue
from service.storage.backends.database import open_database
from service.storage.ended_answers import LAST, OWN_BYTES, EndedAnswers
from service.streams.idempotency import Answered, RequestIdentity
from service.types import InferResponse
from tests.applications import INFER, application
from tests.bundles import torch_bundle
from tests.failing import faults_of
from tests.serving import images, infer_body
from tests.stored import copied


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


def created(api):
    return [event["stream"] for event in api("GET", "/v1/events").json()["items"] if event["kind"] == "created"]


@pytest.mark.parametrize("durability", ["ephemeral", "periodic", "sync"])
def test_a_retry_of_the_final_request_gets_the_same_answer_and_makes_no_stream(bundle, tmp_path, durability):
    with application(tmp_path, bundle, durability=durability) as api:
        before = [api.infer(images(4, seed), "s", f"r{seed}") for seed in range(2)]
        final = api.infer(images(4, 2), "s", "r2", sequence_end=True)

        again = [api.infer(images(4, 2), "s", "r2", sequence_end=True) for _ in range(2)]

        assert again == [final, final]
        assert api.infer(images(4, 1), "s", "r1") == before[1]
        assert api.ids() == []
        assert created(api) == ["s"]


def test_final_requests_sent_twice_at_once_are_answered_alike(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.infer(images(4), "s", "r0")
        body = infer_body(images(4, 1), "s", "r1", sequence_end=True)

        answers = [answer.json() for answer in api.together(*[("POST", INFER, {"json": body})] * 3)]

        assert answers[1:] == answers[:1] * 2
        assert answers[0]["parameters"]["tta_generation"] == 2
        assert created(api) == ["s"]


def test_what_is_no_retry_begins_a_new_stream(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.infer(images(4), "s", "1", sequence_start=True)
        api.infer(images(4, 1), "s", "2", sequence_end=True)

        another = api.infer(images(4, 2), "s", "2")
        api.infer(images(4, 3), "s", "3", sequence_end=True)
        start = api.infer(images(4), "s", "1", sequence_start=True)

        assert another["parameters"]["tta_generation"] == 1
        assert start["parameters"]["tta_generation"] == 1
        assert api.ids() == ["s"]


def test_a_sequence_of_one_request_is_answered_again(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        both = {"sequence_start": True, "sequence_end": True}
        first = api.infer(images(4), "s", "1", **both)

        assert api.infer(images(4), "s", "1", **both) == first
        assert api.ids() == []


def test_final_answers_of_a_sync_stream_survive_a_crash(bundle, tmp_path):
    with application(tmp_path, bundle, durability="sync") as api:
        given = [api.infer(images(4, seed), "s", f"r{seed}", sequence_end=seed == 2) for seed in range(3)]
        left = copied(tmp_path)
    with application(left, bundle, durability="sync") as api:
        assert [api.infer(images(4, seed), "s", f"r{seed}", sequence_end=seed == 2) for seed in (2, 1)] == given[:0:-1]
        assert api.ids() == []


def test_a_final_request_is_answered_alike_though_the_store_fails_at_any_step_once(bundle, tmp_path):
    with application(tmp_path, bundle, durability="sync") as api, faults_of(api) as faults:
        given = {}
        for number in count():
            name = f"s{number}"
            api.infer(images(2), name, "r0")
            body = infer_body(images(2, 1), name, "r1", sequence_end=True)
            faults.arm(number)
            answers = [api("POST", INFER, json=body) for _ in range(3)]
            given[name] = answers[-1].json()
            assert answers[1].json() == given[name]
            if not faults.disarm():
                break
        assert number > 4
        assert {answer["parameters"]["tta_generation"] for answer in given.values()} == {2}
        assert api.ids() == []
        left = copied(tmp_path)
    with application(left, bundle, durability="sync") as api:
        assert {name: api.infer(images(2, 1), name, "r1", sequence_end=True) for name in given} == given
        assert api.ids() == []


def answered(request, size=1000):
    outputs = {"logits": np.zeros(size, np.uint8)}
    return Answered(RequestIdentity(request, "", "digest"), InferResponse("m", "1", request, {}, outputs))


def test_answers_of_ended_streams_are_bounded_in_number_bytes_and_time():
    now = [0.0]
    ended = EndedAnswers(seconds=10, size_bytes=3 * (1000 + OWN_BYTES), clock=lambda: now[0])
    ended.keep("many", [answered(f"r{number}", size=0) for number in range(LAST + 2)])
    assert ended.find("many", RequestIdentity("r1", "", "digest")) is None
    assert ended.find("many", RequestIdentity("r2", "", "digest")) is not None

    for name in "abcd":
        ended.keep(name, [answered("r")])
        now[0] += 1
    found = [name for name in "abcd" if ended.find(name, RequestIdentity("r", "", "digest"))]
    assert found == ["b", "c", "d"]

    now[0] = 11.5
    assert [name for name in "abcd" if ended.find(name, RequestIdentity("r", "", "digest"))] == ["c", "d"]
    assert ended.find("c", RequestIdentity("r", "", "another")) is None


def test_stored_answers_of_ended_streams_leave_when_old_or_too_many(tmp_path):
    database = open_database("", tmp_path, sharded=False)
    catalogue = Catalogue(database.engine)
    for name in "abc":
        catalogue.keep_ended(name, [Kept("r", "", "d", b"x" * 1000)])

    catalogue.forget_ended(600, 2500)
    assert list(catalogue.ended(600)) == ["b", "c"]
    catalogue.forget_ended(-1, 2500)
    assert catalogue.ended(600) == {}
    database.close()
