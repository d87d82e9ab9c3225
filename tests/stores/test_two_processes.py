"""Two processes on one store: no generation is given twice, and who was fenced says so."""

import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial

import pytest

from tests.serving import ROOT
from tests.stores.conftest import KINDS
from tests.stores.control import create, view
from tests.stores.load import Sender, playing
from tests.stores.process import started
from tests.stores.programs import wait_until

pytestmark = pytest.mark.e2e
FENCED, BUSY = 409, 503
SHARDED = {"ACCLIMATE_SHARDED": "true"}


def sender(stream, number):
    return Sender(stream, number, tolerated=frozenset({FENCED, BUSY}))


def both_went_on(senders, before):
    return all(len(each.acknowledged) > count for each, count in zip(senders, before, strict=True))


def send(client, by):
    """Send a sender's next request until it is answered."""
    answers = []

    def answered():
        answers.append(by.send(client))
        return answers[-1]

    wait_until(answered, f"an answer to {by.unanswered}")
    return answers[-1]


def start_beside(first, store, sharded):
    """Start a second process, which must be refused; return its status and what it said."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data", str(store.data)]
    environment = {**os.environ, **first.environment, "ACCLIMATE_SHARDED": sharded}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as second:
        try:
            said = second.stdout.readline()  # what a server says that was not refused
            assert "listens" not in said, "the second process serves beside the first"
            return second.wait(timeout=30), second.stderr.read()
        finally:
            second.kill()


@pytest.fixture(scope="module", params=KINDS)
def kept_in(request, make_store):
    """Each kind of store in turn, empty."""
    return make_store(request.param)


@pytest.fixture(scope="module")
def two(kept_in, tmp_path_factory):
    """Two sharded processes on one store."""
    with ExitStack() as both:
        folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
        yield [both.enter_context(started(folder, kept_in, **SHARDED)) for folder in folders]


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_two_processes_on_one_stream_never_acknowledge_one_generation_twice_and_both_go_on(two, seconds):
    shared = f"shared-for-{seconds}-seconds"
    with two[0].client() as client:
        create(client, shared, "sync")
    senders = [sender(shared, number) for number in range(2)]
    with playing(*zip([server.url for server in two], senders, strict=True)):
        for _ in range(2):
            before = [len(each.acknowledged) for each in senders]
            time.sleep(seconds / 2)
            wait_until(partial(both_went_on, senders, before), f"both go on; they had {before} answers")

    last = []
    for server, each in zip(two, senders, strict=True):
        with server.client() as client:
            last.append(send(client, each))
            now = view(client, shared)
    acknowledged = [answer for each in senders for answer in each.acknowledged]
    generations = [answer.generation for answer in acknowledged]
    assert len(set(generations)) == len(generations)
    assert sorted(answer.steps for answer in acknowledged) == list(range(1, len(acknowledged) + 1))
    assert all(answer.generation == answer.durable_generation for answer in acknowledged)
    assert last[1].generation == max(generations) == now["generation"]
    assert now["steps"] == len(acknowledged)
    refusals = [response for each in senders for response in each.refusals]
    said = Counter(f"{response.status_code} {response.json()['error']}" for response in refusals)
    print(f"answers: {[len(each.acknowledged) for each in senders]}; refusals: {dict(said)}")
    fenced = [response for response in refusals if response.status_code == FENCED]
    assert fenced
    assert all("fenced" in response.json()["error"] for response in fenced)
    assert all("Retry-After" in response.headers for response in refusals if response.status_code == BUSY)


def test_streams_moved_from_process_to_process_carry_on_where_they_were(two):
    by = [sender("moving", number) for number in range(2)]
    with two[0].client() as one, two[1].client() as other:
        create(one, "moving", "sync")
        generations = [send((one, other)[turn % 2], by[turn % 2]).generation for turn in range(6)]
        now = view(other, "moving")

    assert generations == sorted(set(generations))
    assert now["steps"] == 6
    assert now["generation"] == generations[-1]


def test_what_a_killed_process_had_is_taken_up_by_the_other(two):
    by = [sender("left", number) for number in range(2)]
    with two[0].client() as client:
        create(client, "left", "sync")
        before = [send(client, by[0]) for _ in range(3)][-1]
    two[0].kill()

    with two[1].client() as client:
        after = send(client, by[1])
    two[0].start()

    assert after.generation > before.generation
    assert after.steps == before.steps + 1


def test_an_unsharded_process_is_refused_beside_a_sharded_one(two, kept_in):
    status, said = start_beside(two[0], kept_in, sharded="false")

    assert status == 2, said
    assert "Traceback" not in said


def test_a_process_alone_by_its_setting_keeps_others_out_until_it_ends_in_order_or_not(store, tmp_path):
    with started(tmp_path / "first", store) as first:
        refused = [start_beside(first, store, sharded) for sharded in ("false", "true")]
        with first.client() as client:
            alive = client.get("/v2/health/ready").status_code
        first.stop()
        first.start()
        first.restart_killed()

    for status, said in refused:
        assert status == 2, said
        assert "another process" in said
        assert "sharded" in said.lower()
        assert "Traceback" not in said
    assert alive == 200
    assert first.starts == 3
