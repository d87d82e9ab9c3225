"""A store that fails between any two steps of a write: no stream is fenced by itself, and nothing given is lost."""

from contextlib import suppress
from itertools import count

import pytest

from service.errors import StoreDownError
from service.storage import checkpointer
from service.storage.backends.catalogue import Catalogue
from tests.applications import INFER, OCTETS, application
from tests.bundles import torch_bundle
from tests.failing import faults_of
from tests.serving import images, infer_body
from tests.stored import rest, wait

TRIES = 3
STEPS_OF_A_RETURN = 16
"""At least as many as the store takes to bring a stream back."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(checkpointer, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(checkpointer, "AGAIN_SECONDS", 0.02)


@pytest.fixture
def open_application(bundle, store, tmp_path, monkeypatch):
    """Open an application on the store, as often as a test wants."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)

    def opened(**settings):
        return application(tmp_path, bundle, data=store.data, **settings)

    return opened


def events(api, kind):
    return [event for event in api("GET", "/v1/events?limit=1000").json()["items"] if event["kind"] == kind]


def fenced(api):
    return events(api, "fenced")


def rests(api, name):
    """Try to put a stream to rest; tell whether it rests."""
    with suppress(StoreDownError, AssertionError):
        rest(api, name)
    return api.app.state.services.residence.table.find(name) is None


def lacks(stream):
    """Tell how many generations of a stream are in memory alone."""
    return stream["generation"] - stream["durable_generation"]


def sent(api, method, path, tries=TRIES, **settings):
    """Send a request, again until it is answered; return all responses."""
    responses = []
    while len(responses) < tries and not (responses and responses[-1].status_code < 300):
        responses.append(api(method, path, **settings))
    return responses


def tried(api, method, path, **settings):
    """Send a request again until it is answered."""
    responses = sent(api, method, path, **settings)
    assert responses[-1].status_code < 300, [response.text for response in responses]
    return responses[-1]


def test_a_new_periodic_stream_is_kept_though_the_store_fails_at_any_step_once(open_application):
    with open_application(period_steps=1) as api, faults_of(api) as faults:
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
    with open_application() as api:
        for number in range(len(failed)):
            stream = api.stream(f"s{number}")
            assert (stream["generation"], stream["steps"]) == (2, 2)


def answered(api, stream, seed, request):
    """Send a batch with an id again until it is answered; return the answer."""
    return tried(api, "POST", INFER, json=infer_body(images(2, seed), stream, request)).json()


def test_a_sync_stream_gives_the_same_answers_though_the_store_fails_at_any_step_once(open_application):
    with open_application(sharded=True) as api, faults_of(api) as faults:
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
        with open_application(sharded=True) as after_a_crash:  # the first has kept nothing at its stop yet
            for name, answer in failed:
                assert answered(after_a_crash, name, 2, "r2") == answer
                stream = after_a_crash.stream(name)
                assert (stream["generation"], stream["steps"]) == (3, 3)


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
def test_an_operators_call_succeeds_though_the_store_fails_at_any_step_once(open_application, name_of_call, durability):
    call = CALLS[name_of_call]
    with open_application(period_steps=1) as api, faults_of(api) as faults:
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


def test_a_snapshot_can_be_uploaded_though_the_store_fails_at_any_step_once(open_application):
    with open_application() as api, faults_of(api) as faults:
        api.infer(images(2), "s")
        taken = api("POST", "/v1/streams/s/snapshots").json()["id"]
        file = api("GET", f"/v1/snapshots/{taken}/download").content
        failed = []
        for number in count():
            assert api("DELETE", f"/v1/snapshots/{taken}").status_code == 204
            faults.arm(number)
            tried(api, "POST", "/v1/snapshots", content=file, headers=OCTETS)
            fired = faults.disarm()
            assert api("GET", f"/v1/snapshots/{taken}/download").content == file
            if not fired:
                break
            failed.append(fired)
        assert {"before put", "after put", "before commit", "after commit"} <= set(failed)


def test_a_stream_rests_and_returns_though_the_store_fails_at_any_step_once(open_application):
    with open_application() as api, faults_of(api) as faults:
        expected = [api.infer(images(2, seed), "whole")["outputs"] for seed in range(2)]
        for number in count():
            name = f"s{number}"
            assert api.infer(images(2), name)["outputs"] == expected[0]
            faults.arm(number)
            wait(api, lambda name=name: rests(api, name))
            rested = faults.disarm()
            faults.arm(number)
            answer = answered(api, name, 1, "r")
            assert answer["outputs"] == expected[1]
            assert (answer["parameters"]["tta_generation"], answer["parameters"]["tta_steps"]) == (2, 2)
            returned = faults.disarm()
            if not (rested or returned):
                break
        assert number > 3
        assert fenced(api) == []


@pytest.fixture
def kept(open_application):
    """Streams of one generation each that rest in the store: one for each step of a return, and one more."""
    names = [f"s{number}" for number in range(STEPS_OF_A_RETURN + 1)]
    with open_application() as api:
        for name in names:
            api.infer(images(2), name)
    return names


def return_at_each_step(api, names, tries):
    """Ask for each stream, so many times at most, while one step of its return fails once."""
    failed = []
    with faults_of(api) as faults:
        for number, name in enumerate(names):
            faults.arm(number)
            sent(api, "GET", f"/v1/streams/{name}", tries)
            failed.append(faults.disarm())
    assert failed[-1] == ""
    assert {"after get", "before commit", "after commit"} <= set(failed)


def assert_nothing_is_lost(api, names):
    for name in names:
        stream = api.stream(name)
        assert (stream["generation"], stream["durable_generation"], stream["steps"]) == (1, 1, 1)
    told = {(event["stream"], event["reason"]) for event in events(api, "resumed")}
    assert told == {(name, "at generation 1") for name in names}


def test_a_stream_that_returns_lost_nothing_though_the_store_fails_at_any_step_once(open_application, kept):
    with open_application() as api:
        return_at_each_step(api, kept, tries=TRIES)
        assert_nothing_is_lost(api, kept)


def test_a_stream_whose_return_failed_at_any_step_lost_nothing_after_a_restart(open_application, kept):
    with open_application() as api:
        return_at_each_step(api, kept, tries=1)
        assert len(events(api, "resumed")) < len(kept)
    with open_application() as api:
        assert_nothing_is_lost(api, kept)


def test_a_stream_that_cannot_be_kept_does_not_hold_up_the_others(open_application, monkeypatch):
    advance = Catalogue.advance

    def refuses_one(self, moves):
        if any(move.record.id == "guilty" for move in moves):
            raise StoreDownError("the database does not answer (its text cannot be stored)")
        return advance(self, moves)

    monkeypatch.setattr(Catalogue, "advance", refuses_one)
    with open_application(period_steps=1) as api:
        names = ["a", "guilty", "z"]
        for name in names:
            api.create(id=name)
        api.together(*(("POST", INFER, {"json": infer_body(images(2), name)}) for name in names))
        wait(api, lambda: [api.stream(name)["durable_generation"] for name in names] == [1, 0, 1])
        assert fenced(api) == []
