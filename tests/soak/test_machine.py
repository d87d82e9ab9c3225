"""Any order of requests, operators' calls, rests and restarts: a state machine over an application in this process."""

import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from service.serving.stream_cache import RestLimits
from tests.applications import application
from tests.bundles import torch_bundle
from tests.serving import images
from tests.soak import twins
from tests.stored import PATIENCE

KINDS = {"a": ("batch+tent", 1), "b": ("unmix_tns+eta", 1), "c": ("ema", 8)}
"""Spec and images of one learning step, by stream."""
SEEDS, COUNTS = st.integers(0, 20), st.integers(1, 6)


class Machine(RuleBasedStateMachine):
    """Streams of one server, each beside a twin in another that is left alone."""

    pairs = Bundle("pairs")

    def __init__(self):
        super().__init__()
        self.undo = ExitStack()
        folder = Path(self.undo.enter_context(tempfile.TemporaryDirectory()))
        self.model = torch_bundle(folder / "reference")
        self.folder = folder
        self.tested = self.running = None
        self.there, self.taken, self.requests = {}, {}, 0

    @initialize()
    def start(self):
        self.twins = self.undo.enter_context(application(self.folder / "twins", self.model))
        self.begin()

    def begin(self):
        self.running = self.undo.enter_context(ExitStack())
        self.tested = self.running.enter_context(application(self.folder / "tested", self.model, period_steps=3))

    def teardown(self):
        self.undo.close()

    def wait(self, until):
        """Wait until something holds; the application's own tasks go on meanwhile."""
        end = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < end
            self.tested._runner.run(asyncio.sleep(0.01))

    @property
    def free(self):
        return sorted(KINDS.keys() - self.there.keys())

    @precondition(lambda self: self.free)
    @rule(target=pairs, durability=st.sampled_from(["ephemeral", "periodic", "sync"]))
    def create(self, durability):
        name = self.free[0]
        pair = twins.create(self.tested, self.twins, name, *KINDS[name], durability)
        self.there[name] = pair
        return pair

    @rule(pair=pairs, seed=SEEDS, count=COUNTS)
    def infer(self, pair, seed, count):
        self.requests += 1
        request_id = f"r{self.requests}"
        answer = twins.infer(self.tested, self.twins, pair, images(count, seed), request_id)
        pair.sent.append(twins.Sent(request_id, seed, count, answer))

    @rule(pair=pairs, ago=st.integers(1, twins.LOGGED))
    def infer_the_same_id_again(self, pair, ago):
        for sent in pair.sent[-ago:][:1]:
            twins.retry(self.tested, pair, sent)

    @rule(pair=pairs)
    def reset(self, pair):
        twins.reset(self.tested, self.twins, pair)

    @rule(pair=pairs)
    def snapshot(self, pair):
        self.taken[pair.id] = twins.snapshot(self.tested, self.twins, pair)

    @rule(pair=pairs)
    def restore(self, pair):
        if pair.id in self.taken:
            twins.restore(self.tested, self.twins, pair, self.taken[pair.id])

    @rule()
    def evict(self):
        residence = self.tested.app.state.services.residence
        usual, residence.limits = residence.limits, RestLimits(0)
        end = time.monotonic() + PATIENCE
        while list(residence.table):  # what the keeper is writing just then rests a little later
            assert time.monotonic() < end, "all of them rest"
            self.tested._runner.run(residence.make_room())
        residence.limits = usual

    @rule()
    def restart(self):
        self.running.close()
        self.begin()
        for pair in self.there.values():
            if pair.durability == "ephemeral":  # where it goes on is not promised, but that it goes on
                twins.reset(self.tested, self.twins, pair)

    @rule(pair=consumes(pairs))
    def delete(self, pair):
        for api in (self.tested, self.twins):
            twins.called(api, "DELETE", f"/v1/streams/{pair.id}", 204)
        del self.there[pair.id]

    @invariant()
    def no_generation_goes_back_and_no_stream_is_lost(self):
        if self.tested is None:
            return
        told = {stream["id"]: stream for stream in self.tested("GET", "/v1/streams").json()["items"]}
        assert told.keys() == self.there.keys()
        for name, pair in self.there.items():
            pair.saw(told[name]["generation"])
        self.wait(self.steps_agree)  # a step on images that had waited comes after the answer

    def steps_agree(self):
        steps = [
            {stream["id"]: stream["steps"] for stream in api("GET", "/v1/streams").json()["items"]}
            for api in (self.tested, self.twins)
        ]
        return steps[0] == steps[1]


@pytest.mark.parametrize(("examples", "steps"), [(8, 25), pytest.param(150, 50, marks=pytest.mark.slow)])
def test_rests_and_restarts_change_no_answer_and_no_generation_goes_back(examples, steps):
    run_machine(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # to make a failure small would take hundreds of starts
            suppress_health_check=list(HealthCheck),
        ),
    )
