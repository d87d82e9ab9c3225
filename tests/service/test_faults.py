"""A store that fails between any two steps of a write: no stream is fenced by itself, and nothing given is lost."""

from contextlib import suppress
from itertools import count

import pytest

from service import keeping
from service.errors import StoreDownError
from service.store.catalogue import Catalogue
from tests.applications import INFER, application
from tests.bundles import torch_bundle
from tests.failing import faults_of
from tests.serving import images, infer_body
from tests.stored import copied, rest, wait

TRIES = 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(keeping, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(keeping, "AGAIN_SECONDS", 0.02)


def fenced(api):
    return [event for event in api("GET", "/v1/events").json()["items"] if event["kind"] == "fenced"]


def rests(api, name):
    """Try to put a stream to rest; tell whether it rests."""
    with suppress(StoreDownError, AssertionError):
        rest(api, name)
    return api.app.state.residence.table.find(name) is None


def lacks(stream):
    """Tell how many generations of a stream are in memory alone."""
    return stream["generation"] - stream["durable_generation"]


def tried(api, method, path, **settings):
    """Send a request again until it is answered."""
    responses = []
    for _ in range(TRIES):
        responses.append(api(method, path, **settings))
        if responses[-1].status_code < 300:
            return responses[-1]
    raise AssertionError([response.text for response in responses])


def test_a_new_periodic_stream_is_kept_though_the_store_fails_at_any_step_once(bundle, tmp_path):
    with application(tmp_path, bundle, period_steps=1) as api, faults_of(api) as faults:
        failed = []
        for number in count():
            name = f"s{number}"
            faults.arm(number)
            api.infer(images(2), name)
            wait(api, lambda name=name: api.stream(name)["durable_generation"] == 1)
            if not faults.disarm():
                break
            failed.append(faults.fired)
            api.infer(images(2, 1), name)
            wait(api, lambda name=name: api.stream(name)["durable_generation"] == 2)
        assert fenced(api) == []
        assert {"before put", "after put", "before commit", "after commit"} <= set(failed)
    with application(tmp_path, bundle) as api:
        for number in range(len(failed)):
            stream = api.stream(f"s{number}")
            assert (stream["generation"], stream["steps"]) == (2, 2)


def answered(api, stream, seed, request):
    """Send a batch with an id again until it is answered; return the answer."""
    return tried(api, "POST", INFER, json=infer_body(images(2, seed), stream, request)).json()


def test_a_sync_stream_gives_the_same_answers_though_the_store_fails_at_any_step_once(bundle, tmp_path):
    with application(tmp_path, bundle) as api, faults_of(api) as faults:
        expected = [api.infer(images(2, seed), "whole", f"r{seed}") for seed in range(3)]
        failed, given = [], []
        for number in count():
            name = f"s{number}"
            api.create(id=name, durability="sync")
            steps = []
            for seed in range(3):
                faults.arm(number)
                given.append(answered(api, name, seed, f"r{seed}"))
                assert given[-1]["outputs"] == expected[seed]["outputs"]
                steps.append(faults.disarm())
            failed.append((name, given[-1]))
            if not any(steps):
                break
        assert fenced(api) == []
        left = copied(tmp_path)
    with application(left, bundle) as api:
        for name, answer in failed:
            stream = api.stream(name)
            assert (stream["generation"], stream["steps"]) == (3, 3)
            assert answered(api, name, 2, "r2") == answer


CALLS = {
    "reset": lambda name, _: ("POST", f"/v1/streams/{name}/reset", {}),
    "change": lambda name, _: ("PATCH", f"/v1/streams/{name}", {"json": {"mode": "shadow"}}),
    "delete": lambda name, _: ("DELETE", f"/v1/streams/{name}", {}),
    "snapshot": lambda name, _: ("POST", f"/v1/streams/{name}/snapshots", {}),
    "restore": lambda name, taken: ("POST", f"/v1/streams/{name}/restore", {"json": {"snapshot": taken}}),
}


@pytest.mark.parametrize(
    ("name_of_call", "durability"),
    [
        ("reset", "sync"),
        ("change", "periodic"),
        ("delete", "sync"),
        ("delete", "periodic"),
        ("snapshot", "sync"),
        ("restore", "periodic"),
    ],
)
def test_an_operators_call_succeeds_though_the_store_fails_at_any_step_once(bundle, tmp_path, name_of_call, durability):
    call = CALLS[name_of_call]
    with application(tmp_path, bundle, period_steps=1) as api, faults_of(api) as faults:
        for number in count():
            name = f"s{number}"
            api.create(id=name, durability=durability)
            api.infer(images(2), name)
            taken = api("POST", f"/v1/streams/{name}/snapshots").json()["id"]
            method, path, settings = call(name, taken)

            faults.arm(number)
            first = api(method, path, **settings)
            again = api(method, path, **settings) if first.status_code >= 300 else first

            assert again.status_code < 300, (faults.fired, again.text)
            answered(api, name, 1, "r")
            wait(api, lambda name=name: not lacks(api.stream(name)))
            if not faults.disarm():
                break
        assert number > 3
        assert fenced(api) == []


def test_a_stream_rests_and_returns_though_the_store_fails_at_any_step_once(bundle, tmp_path):
    with application(tmp_path, bundle) as api, faults_of(api) as faults:
        expected = [api.infer(images(2, seed), "whole")["outputs"] for seed in range(2)]
        for number in count():
            name = f"s{number}"
            assert api.infer(images(2), name)["outputs"] == expected[0]
            faults.arm(number)
            wait(api, lambda name=name: rests(api, name))
            rested = faults.disarm()
            faults.arm(number)
            assert answered(api, name, 1, "r")["outputs"] == expected[1]
            if not (rested or faults.disarm()):
                break
        assert number > 3
        assert fenced(api) == []


def test_a_stream_that_cannot_be_kept_does_not_hold_up_the_others(bundle, tmp_path, monkeypatch):
    advance = Catalogue.advance

    def refuses_one(self, moves):
        if any(move.record.id == "guilty" for move in moves):
            raise StoreDownError("the database does not answer (its text cannot be stored)")
        return advance(self, moves)

    monkeypatch.setattr(Catalogue, "advance", refuses_one)
    with application(tmp_path, bundle, period_steps=1) as api:
        names = ["a", "guilty", "z"]
        for name in names:
            api.create(id=name)
        api.together(*(("POST", INFER, {"json": infer_body(images(2), name)}) for name in names))
        wait(api, lambda: [api.stream(name)["durable_generation"] for name in names] == [1, 0, 1])
        assert fenced(api) == []
