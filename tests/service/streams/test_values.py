"""A stream's value: its parts are frozen, a commit is one assignment, and what fails leaves the very same object."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import get_args, get_type_hints

import pytest
import torch

from service.errors import StoreDownError
from service.models.bundle import read_bundle
from service.models.hosted import Fitted, host
from service.monitoring import stream_monitors
from service.serving import dataplane
from service.storage.checkpoints import Checkpoints
from service.streams import engine
from service.streams.idempotency import Answered, RequestIdentity
from service.streams.value import Readings, StreamValue
from service.types import InferResponse
from tests.applications import application
from tests.bundles import FACTORY, torch_bundle, tripwire_bundle
from tests.serving import images, infer_body
from tests.streams import serve, stream_of

INFER = "/v2/models/tripwire/infer"


def failing(error):
    def fail(*_given, **_settings):
        raise error

    return fail


def tripping(count):
    x = images(count)
    x[0, 0, 0, 0] = 1.0
    return x


STAGES = {
    "step": (None, None),
    "monitors": (stream_monitors, "update"),
    "guard": (engine, "decide"),
    "readings": (engine, "readings_after"),
    "answer": (dataplane, "response_of"),
    "checkpoint": (Checkpoints, "write"),
    "end": (Checkpoints, "remove"),
}
"""Stages of a request, and the function that is made to fail there; the step fails by the images themselves."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tripwire_bundle(tmp_path_factory.mktemp("bundles") / "tripwire")


@pytest.fixture
def api(bundle, tmp_path):
    settings = {"allow_factories": ("tests.models:Tripwire",), "source_check_every": 1}
    with application(tmp_path, bundle, **settings) as running:
        yield running


@pytest.fixture
def stream(api):
    """A stream of the application that is written before each answer, and has answered a request."""
    assert api("POST", "/v1/streams", json={"id": "s", "durability": "sync"}).status_code == 201
    assert ask(api, images(4)).status_code == 200
    return api.app.state.services.residence.table.find("s")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return host(read_bundle(torch_bundle(tmp_path_factory.mktemp("model") / "reference")), (FACTORY,), 1)


def ask(api, x, **parameters):
    return api("POST", INFER, json=infer_body(x, "s", "r", **parameters))


def parts_of(kind, found=None):
    """Whether each dataclass that a dataclass is composed of is frozen; a pipeline is no part of a stream."""
    found = {} if found is None else found
    if is_dataclass(kind) and kind is not Fitted and kind not in found:
        found[kind] = kind.__dataclass_params__.frozen
        for hint in get_type_hints(kind).values():
            for each in (hint, *get_args(hint)):
                parts_of(each, found)
    return found


def test_every_part_of_a_value_is_frozen():
    parts = parts_of(StreamValue)

    assert [part.__name__ for part, frozen in parts.items() if not frozen] == []
    assert len(parts) > 15


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_that_fails_at_any_stage_leaves_the_very_same_value(api, stream, monkeypatch, stage):
    owner, name = STAGES[stage]
    value = stream.current
    x = images(4, 1) if owner else tripping(4)

    with monkeypatch.context() as patch:
        if owner:
            patch.setattr(owner, name, failing(StoreDownError("the store is down")))
        failed = ask(api, x, sequence_start=True, sequence_end=stage == "end")

    assert failed.status_code >= 500
    assert stream.current is value
    answered = ask(api, images(4, 2)).json()["parameters"]
    assert answered["tta_generation"] == value.generation + 1
    assert stream.current.counters.requests == value.counters.requests + 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("PATCH", "", {"mode": "frozen", "adapter": "batch", "durability": "sync"}, id="change"),
        pytest.param("POST", "/reset", None, id="reset"),
        pytest.param("POST", "/restore", {"snapshot": ""}, id="restore"),
        pytest.param("POST", "/snapshots", {}, id="snapshot"),
        pytest.param("DELETE", "", None, id="end"),
    ],
)
def test_an_operators_change_that_is_not_stored_leaves_the_very_same_value(
    api, stream, monkeypatch, method, path, body
):
    taken = api("POST", "/v1/streams/s/snapshots", json={}).json()["id"]
    assert ask(api, images(4, 1)).status_code == 200
    value = stream.current
    body = {"snapshot": taken} if body == {"snapshot": ""} else body

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", failing(StoreDownError("the store is down")))
        patch.setattr(Checkpoints, "remove", failing(StoreDownError("the store is down")))
        patch.setattr("service.storage.checkpointer._is_kept", lambda *_: False)
        failed = api(method, f"/v1/streams/s{path}", json=body)

    assert failed.status_code == 503, failed.text
    assert stream.current is value


def test_readers_see_the_value_before_a_request_until_it_is_committed(api, stream, monkeypatch):
    value, write, seen = stream.current, Checkpoints.write, []

    def writing(checkpoints, copies):
        seen.append((stream.current, copies[0].value))
        return write(checkpoints, copies)

    monkeypatch.setattr(Checkpoints, "write", writing)
    assert ask(api, images(4, 1)).status_code == 200

    ((before, written),) = seen
    assert before is value
    assert stream.current is written
    assert (written.generation, written.retries.kept[-1].identity.id) == (value.generation + 1, "r")


@dataclass(frozen=True, slots=True, eq=False)
class Wider(StreamValue):
    """A value with one field more."""

    added: int = 0


def test_a_new_field_goes_along_with_each_commit_and_is_kept_by_a_failure(bundle):
    tripwire = host(read_bundle(bundle), ("tests.models:Tripwire",), 1)
    stream = stream_of(tripwire)
    stream.current = Wider(*(getattr(stream.current, each.name) for each in fields(StreamValue)), added=7)

    serve(stream, torch.from_numpy(images(4)))
    stream.current = wide = engine.reset(stream.current)
    with pytest.raises(RuntimeError, match="tripped"):
        serve(stream, torch.from_numpy(tripping(4)))

    assert stream.current is wide
    assert (wide.added, wide.generation) == (7, 2)


def test_a_new_beginning_forgets_readings_answers_and_good_states_and_leaves_the_value_before_it(model):
    stream = stream_of(model)
    known = {each.name: object() for each in fields(Readings)}
    answered = Answered(RequestIdentity("id", "", "digest"), InferResponse("m", "1", "id", {}, {}))
    value = replace(
        stream.current,
        readings=Readings(**known),
        retries=stream.current.retries.with_answer(answered),
        good=replace(stream.current.good, kept=(object(),)),
    )

    begun = engine.reset(value)

    fresh = Readings()
    assert [getattr(begun.readings, name) for name in known] == [getattr(fresh, name) for name in known]
    assert (begun.retries.kept, begun.good.kept, begun.counters.beginnings) == ((), (), 1)
    assert all(getattr(value.readings, name) is told for name, told in known.items())
    assert (len(value.retries.kept), len(value.good.kept), value.counters.beginnings) == (1, 1, 0)
