"""Forgetting, measured beside the traffic of the embedded model: results, their consequences, and who waits."""

import asyncio
import time

import numpy as np
import pytest
import torch

from service import services
from service.demo.drift import STREAM
from service.monitoring.guard import Action, Decision
from service.serving.controlplane import Controlplane
from service.serving.probe_runs import Prober
from service.settings import EMBEDDED
from service.streams import engine
from tests.applications import application
from tests.serving import infer_body

INFER = "/v2/models/fashion/infer"
EVERY = 4
HARSH = {"tent": {"lr": 0.5}}
"""A rate at which one step destroys the model."""


@pytest.fixture
def inside(monkeypatch):
    """The objects behind the routes, by class, for what no client can bring about."""
    made = {}

    def keeping(kind):
        def make(*args, **settings):
            made[kind] = kind(*args, **settings)
            return made[kind]

        return make

    for kind in (Controlplane, Prober):
        monkeypatch.setattr(services, kind.__name__, keeping(kind))
    return made


@pytest.fixture
def api(tmp_path, inside):
    settings = {"probe_every": EVERY, "allow_factories": ("service.demo.network:build",)}
    with application(tmp_path, EMBEDDED, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def clothes():
    with np.load(STREAM) as stored:
        return stored["images"][:256, None].astype(np.float32) / 255


def create(api, **body):
    response = api("POST", "/v1/streams", json={"id": "s", "model": "fashion", **body})
    assert response.status_code == 201, response.text


def body_of(x):
    body = infer_body(x, "s")
    body["inputs"][0]["name"] = "input"
    return body


def infer(api, x):
    response = api("POST", INFER, json=body_of(x))
    assert response.status_code == 200, response.text
    return response.json()["parameters"]


def learn(api, clothes, steps, size=16):
    return [infer(api, clothes[number * size : (number + 1) * size]) for number in range(steps)]


def history(api):
    return api("GET", "/v1/streams/s/history").json()


def events(api, kind):
    return [item for item in api("GET", "/v1/events?stream=s").json()["items"] if item["kind"] == kind]


def eventually(api, found, seconds=60.0):
    """Let the server run until something is found."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        result = found()
        if result:
            return result
        api._runner.run(asyncio.sleep(0.05))
    raise AssertionError("not found in time")


def probed(api, **seconds):
    return eventually(api, lambda: history(api)["probe"], **seconds)


def test_after_as_many_steps_as_are_wanted_the_result_is_in_the_history(api, clothes):
    create(api, adapter="batch+tent")
    learn(api, clothes, EVERY - 1)
    before = history(api)["probe"]
    learn(api, clothes, 1)

    probe = probed(api)

    assert before is None
    assert (probe["steps"], probe["generation"]) == (EVERY, EVERY)
    assert 0.8 < probe["accuracy"] <= 1
    assert abs(probe["forgetting"]) < 0.1
    assert probe["source_gap"] >= probe["forgetting"] - 0.1
    infer(api, clothes[:16])
    points = history(api)
    assert points["points"][-1][points["columns"].index("forgetting")] == pytest.approx(probe["forgetting"])


def test_a_state_that_learns_nothing_forgets_nothing(api, clothes):
    create(api, adapter="batch+tent", options={"tent": {"lr": 0.0}})
    learn(api, clothes, EVERY)

    assert probed(api)["forgetting"] == 0


def test_a_probe_is_not_run_again_for_the_requests_that_came_during_it(api, inside, clothes):
    create(api, adapter="batch+tent")
    prober = inside[Prober]
    runs, probe = [], prober._probe

    async def counted(stream):
        runs.append(stream.current.steps)
        await probe(stream)

    prober._probe = counted
    learn(api, clothes, EVERY)
    bodies = [("POST", INFER, {"json": body_of(clothes[:4])}) for _ in range(EVERY - 1)]
    api.together(*bodies)
    probed(api)
    api._runner.run(asyncio.sleep(0.3))

    assert len(runs) == 1


def test_requests_are_answered_while_a_probe_runs(api, inside, clothes):
    create(api, adapter="batch+tent")
    learn(api, clothes, 2)
    began = time.perf_counter()
    learn(api, clothes, 1)
    usual = time.perf_counter() - began
    chunk = chunk_seconds(inside[Controlplane].table.get("s"))
    learn(api, clothes, 1)

    waits, during = [], 0
    while history(api)["probe"] is None and len(waits) < 60:
        began = time.perf_counter()
        learn(api, clothes, 1)
        waits.append(time.perf_counter() - began)
        during += history(api)["probe"] is None

    assert during >= 1
    assert max(waits) < 10 * (usual + 2 * chunk) + 1


def chunk_seconds(stream):
    x, _ = stream.model.reference.probe.chunk(0)
    began = time.perf_counter()
    with torch.no_grad():
        stream.current.config.fitted.probe(stream.current.state.adapter, x)
    return time.perf_counter() - began


def test_a_policy_on_forgetting_leads_back_and_is_told(api, clothes):
    guard = {"forgetting": "roll_back", "budget": 0.01, "collapse": "off", "harm": "off"}
    create(api, adapter="batch+tent", options=HARSH, guard=guard)
    generation = learn(api, clothes, EVERY)[-1]["tta_generation"]

    told = eventually(api, lambda: events(api, "guard"))

    assert [(event["action"], event["figures"]["source_gap"] > 0.01) for event in told] == [("rolled_back", True)]
    assert "points of accuracy lost on the probe set" in told[0]["reason"]
    stream = api("GET", "/v1/streams/s").json()
    assert (stream["steps"], stream["generation"]) == (0, generation + 1)
    assert infer(api, clothes[:16])["tta_action"] == "frozen"  # learning pauses


def test_by_default_forgetting_is_told_in_figures_alone(api, clothes):
    create(api, adapter="batch+tent", options=HARSH, guard={"collapse": "off", "harm": "off"})
    learn(api, clothes, EVERY)

    assert probed(api)["forgetting"] > 0.3
    assert events(api, "guard") == []
    assert api("GET", "/v1/streams/s").json()["steps"] == EVERY


@pytest.mark.parametrize("act", ["reset", "guard"])
def test_a_result_on_a_state_that_was_thrown_away_meanwhile_is_ignored(api, inside, clothes, act):
    guard = {"forgetting": "roll_back", "budget": 0.01, "collapse": "off", "harm": "off"}
    create(api, adapter="batch+tent", options=HARSH, guard=guard)
    control, prober = inside[Controlplane], inside[Prober]
    accuracy, done = prober._accuracy, []

    async def meanwhile(fitted, state, probe):
        found = await accuracy(fitted, state, probe)
        if not done:
            done.append(act)
            if act == "reset":
                await control.reset("s", None)
            else:
                stream = control.table.get("s")
                await control._change(stream, guarded)
        return found

    prober._accuracy = meanwhile
    learn(api, clothes, EVERY)
    eventually(api, lambda: done and not prober._due)
    api._runner.run(asyncio.sleep(0.5))

    assert history(api)["probe"] is None
    assert events(api, "guard") == []
    assert control.table.get("s").current.good.kept == ()


def guarded(value):
    return engine.apply_guard(value, Decision(Action.ROLLED_BACK, "harm", "made"))


def test_good_states_are_kept_and_gone_back_to(api, inside, clothes):
    create(api, adapter="batch+tent", guard={"budget": 0.5})
    control = inside[Controlplane]
    learn(api, clothes, EVERY)
    probed(api)

    kept = control.table.get("s").current.good.kept

    assert [(good.steps, good.generation) for good in kept] == [(EVERY, EVERY)]


def test_without_probes_nothing_is_measured(tmp_path, clothes):
    with application(tmp_path, EMBEDDED, probe_every=0, allow_factories=("service.demo.network:build",)) as api:
        create(api, adapter="batch+tent")
        learn(api, clothes, EVERY)
        api._runner.run(asyncio.sleep(0.2))

        assert history(api)["probe"] is None
