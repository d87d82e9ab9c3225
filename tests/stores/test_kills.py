"""kill -9 at any moment, under load: what was acknowledged is there, and nothing is learned twice."""

import os
import random
import time

import pytest

from tests.stores.acknowledged import check_each_request_is_one_step, check_nothing_acknowledged_is_lost
from tests.stores.control import create, events, restore, take, verified_snapshots, view
from tests.stores.load import Sender, Snapshotter, playing
from tests.stores.process import started
from tests.stores.programs import wait_until
from tests.stores.requests import Request, infer

pytestmark = pytest.mark.e2e
PERIOD_STEPS = 10
LOST_AT_MOST = 2 * PERIOD_STEPS
"""Steps of a window, and those that are learned while it is written."""
SYNC = {"sync-tent": "batch+tent", "sync-ema": "ema"}
PERIODIC = {"periodic-tent": "batch+tent", "periodic-ema": "ema"}
EPHEMERAL = {"ephemeral-tent": "batch+tent"}
STREAMS = {**SYNC, **PERIODIC, **EPHEMERAL}
MOST_ANSWERS, LATEST_SECONDS = 80, 0.05
"""Before a kill: at most so many answers, and then so much time."""


class Life:
    """One server's streams over its kills: who sends to them, and what must hold after each restart."""

    def __init__(self) -> None:
        self.senders = {stream: [Sender(stream, number)] for number, stream in enumerate(STREAMS)}
        self.senders["sync-ema"].append(Sender("sync-ema", 100))
        self.snapshotter = Snapshotter(list(STREAMS))
        self.known_steps = dict.fromkeys(PERIODIC, 0)
        self.answered_before = dict.fromkeys(PERIODIC, 0)

    @property
    def players(self):
        return [*(sender for senders in self.senders.values() for sender in senders), self.snapshotter]

    def wait_for_answers(self, count):
        before = sum(len(self.acknowledged(stream)) for stream in STREAMS)

        def are_there():
            return sum(len(self.acknowledged(stream)) for stream in STREAMS) >= before + count

        wait_until(are_there, f"{count} answers", every=0.005)

    def acknowledged(self, stream):
        return [answer for sender in self.senders[stream] for answer in sender.acknowledged]

    def check(self, client, since):
        """Check what was kept after a restart at a time, and send what was cut off again."""
        for stream in SYNC:
            check_nothing_acknowledged_is_lost(client, stream, self.senders[stream], self.acknowledged(stream))
            check_each_request_is_one_step(client, stream, self.acknowledged(stream))
        for stream in PERIODIC:
            self.check_a_window_is_lost_at_most(client, stream, since)
        for stream in EPHEMERAL:
            assert self.senders[stream][0].send(client)
        found = verified_snapshots(client, *STREAMS)
        assert set(self.snapshotter.there) <= found
        assert not self.snapshotter.gone & found

    def check_a_window_is_lost_at_most(self, client, stream, since):
        (sender,) = self.senders[stream]
        told = sender.acknowledged[self.answered_before[stream] :]
        durable = [answer.steps for answer in told if answer.generation <= told[-1].durable_generation]
        now = view(client, stream)

        assert now["steps"] >= max([self.known_steps[stream], *durable]), "what was told to be durable is not there"
        if told:
            assert told[-1].steps - LOST_AT_MOST <= now["steps"] <= told[-1].steps + 1
        resumed = events(client, stream, "resumed")[-1]
        assert resumed["time"] >= since
        assert "lost" in resumed["reason"]
        assert "generation" in resumed["figures"]

        sender.unanswered = None
        answer = sender.send(client)
        assert answer.generation > now["generation"] >= max((each.generation for each in told), default=0)
        assert answer.steps == now["steps"] + 1
        self.known_steps[stream] = now["steps"]
        self.answered_before[stream] = len(sender.acknowledged) - 1


def check_answers_are_those_of_a_stream_never_interrupted(client, stream, acknowledged):
    alone = f"alone-{stream}"
    create(client, alone, "ephemeral", STREAMS[stream])
    for answer in sorted(acknowledged, key=lambda answer: answer.generation):
        again = infer(client, Request(alone, answer.request.id, answer.request.seed, answer.request.images))
        assert again.same_outputs(answer), f"{stream} differs at generation {answer.generation}"


@pytest.mark.parametrize(
    "kills",
    [pytest.param(2, id="2-kills"), pytest.param(100, id="100-kills", marks=[pytest.mark.slow])],
)
@pytest.mark.timeout(3600)
def test_kills_at_random_moments_lose_nothing_acknowledged_and_no_request_is_learned_from_twice(store, tmp_path, kills):
    seed = int(os.environ.get("ACCLIMATE_TEST_SEED", random.randrange(2**32)))
    print(f"ACCLIMATE_TEST_SEED={seed}")
    moments = random.Random(seed)
    life = Life()
    settings = {"ACCLIMATE_PERIOD_STEPS": str(PERIOD_STEPS), "ACCLIMATE_PERIOD_SECONDS": "3600"}
    with started(tmp_path / "server", store, **settings) as server:
        with server.client() as client:
            for stream, adapter in STREAMS.items():
                create(client, stream, stream.split("-")[0], adapter)

        for _ in range(kills):
            with playing(*((server.url, player) for player in life.players)):
                life.wait_for_answers(moments.randrange(MOST_ANSWERS))
                time.sleep(moments.uniform(0, LATEST_SECONDS))  # the moment itself is what is tried
                server.kill()
            restarted = time.time()
            server.start()
            with server.client() as client:
                life.check(client, restarted)

        with server.client() as client:
            for stream in SYNC:
                check_answers_are_those_of_a_stream_never_interrupted(client, stream, life.acknowledged(stream))
            told, _ = take(client, "sync-tent")
            assert restore(client, "alone-sync-tent", told["id"]).status_code == 200
    answers = {stream: len(life.acknowledged(stream)) for stream in STREAMS}
    print(f"answers: {answers}, snapshots: {len(life.snapshotter.there)} kept, {len(life.snapshotter.gone)} deleted")
    assert all(answers.values())
    assert life.snapshotter.there
