"""A database that stalls, its processes stopped where they are: its own streams wait, the others go on, a stop ends."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.serving.shutdown import GRACE_SECONDS
from service.storage.store_calls import THREADS
from tests.serving import SLACK_SECONDS
from tests.stores.acknowledged import check_each_request_is_one_step, check_nothing_acknowledged_is_lost
from tests.stores.control import create, view
from tests.stores.load import Sender, playing
from tests.stores.process import started
from tests.stores.programs import wait_until
from tests.stores.requests import Request, answer_of, infer, post

pytestmark = pytest.mark.e2e
STORE_SECONDS, DRAIN_SECONDS = 3.0, 1.0
SYNC = [f"sync-{number}" for number in range(THREADS + 2)]
"""More than the threads that call the store."""
ROUNDS = 3
"""Answers of each other stream, at least, while those of `sync` streams wait."""


@pytest.fixture(scope="module")
def server(make_store, tmp_path_factory):
    settings = {
        "ACCLIMATE_STORE_SECONDS": str(STORE_SECONDS), "ACCLIMATE_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "ACCLIMATE_PERIOD_STEPS": "2", "ACCLIMATE_PERIOD_SECONDS": "1",
    }  # fmt: skip
    with started(tmp_path_factory.mktemp("server"), make_store("postgres+s3"), **settings) as running:
        yield running


def returned(client, request):
    """Send a request until it is answered."""
    responses = []

    def is_answered():
        responses.append(post(client, request))
        assert responses[-1].status_code in {200, 503}, responses[-1].text
        return responses[-1].status_code == 200

    wait_until(is_answered, f"{request} is answered", every=0.1)
    return answer_of(request, responses[-1])


def test_a_stalled_database_holds_up_its_own_streams_alone(postgres_cluster, server):
    others = {"late": [], "free": []}
    health = []
    with server.client() as client:
        for stream in SYNC:
            create(client, stream, "sync")
            infer(client, Request(stream, "first", seed=1))
        create(client, "late", "periodic")
        create(client, "free", "ephemeral")
        with postgres_cluster.stalled(), ThreadPoolExecutor(len(SYNC)) as pool:
            held = [pool.submit(post, client, Request(stream, "second", seed=2)) for stream in SYNC]
            while not any(each.done() for each in held):
                number = len(health)
                for stream, answers in others.items():
                    answers.append(infer(client, Request(stream, f"during-{number}", seed=number)))
                health.append([client.get(f"/v2/health/{name}").status_code for name in ("live", "ready")])
            refused = [each.result() for each in held]

        seconds = [returned(client, Request(stream, "second", seed=2)) for stream in SYNC]
        retried = [infer(client, answer.request) for answer in seconds]
        last = others["late"][-1]
        wait_until(lambda: view(client, "late")["durable_generation"] >= last.generation, "what was learned is kept")

    for response in refused:
        assert response.status_code == 503, response.text
        assert "the store does not answer" in response.json()["error"]
    assert len(health) >= ROUNDS
    assert all(statuses == [200, 200] for statuses in health)
    for answers in others.values():
        assert [answer.steps for answer in answers] == list(range(1, len(answers) + 1))
    assert [(answer.generation, answer.durable_generation, answer.steps) for answer in seconds] == [(2, 2, 2)] * len(
        SYNC
    )
    assert all(again.same_as(first) for again, first in zip(retried, seconds, strict=True))


def test_a_stop_beside_a_stalled_database_ends_in_time_and_nothing_acknowledged_is_lost(postgres_cluster, server):
    senders = [Sender(f"stopped-{number}", number, tolerated=frozenset({503})) for number in range(3)]
    free = Sender("free-at-the-stop", 10, tolerated=frozenset({503}))
    with server.client() as client:
        for sender in senders:
            create(client, sender.stream, "sync")
        create(client, free.stream, "ephemeral")
    with playing(*((server.url, player) for player in (*senders, free))):
        wait_until(lambda: all(len(each.acknowledged) >= ROUNDS for each in senders), "answers before the stall")
        with postgres_cluster.stalled():
            wait_until(lambda: all(each.refusals for each in senders), "refusals")
            answered = len(free.acknowledged)
            wait_until(lambda: len(free.acknowledged) >= answered + ROUNDS, "answers of the other stream")
            began = time.monotonic()
            status = server.server.stop()
            seconds = time.monotonic() - began
    log = server.log()
    server.stop()
    wait_until(lambda: postgres_cluster.clients() == 0, "the stopped server's connections end")
    server.start()

    assert status == 1, log
    assert seconds < DRAIN_SECONDS + GRACE_SECONDS + SLACK_SECONDS
    assert "the store" in log
    with server.client() as client:
        for sender in senders:
            check_nothing_acknowledged_is_lost(client, sender.stream, [sender], sender.acknowledged)
            check_each_request_is_one_step(client, sender.stream, sender.acknowledged)
