"""Background tasks that end: restarted, counted, logged, and seen in `ready` when they keep failing."""

import asyncio
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from service.storage.changed_streams import Changes
from service.support import supervision
from service.support.supervision import Supervisor
from service.telemetry.metrics import Telemetry
from tests.applications import application
from tests.bundles import torch_bundle
from tests.serving import images
from tests.stored import wait

TASKS = ("prober", "keeper", "residence", "cleaner")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


def restarts(telemetry, name):
    return telemetry.registry.get_sample_value("acclimate_background_restarts_total", {"task": name}) or 0


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_streams_may_be_added_and_dropped_while_another_thread_reads_them():
    changes, done, usual = Changes(), threading.Event(), sys.getswitchinterval()
    for number in range(200):
        changes[str(number)] = SimpleNamespace(id=str(number))

    def add_and_drop():
        number = 200
        while not done.is_set():
            changes[str(number)] = SimpleNamespace(id=str(number))
            changes.drop(str(number - 200))
            number += 1

    thread = threading.Thread(target=add_and_drop)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert 199 <= len([stream for stream in changes.values() if not changes.is_urgent(stream.id)]) <= 201
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(usual)


@pytest.mark.parametrize("name", TASKS)
def test_a_background_task_that_is_killed_runs_again(bundle, tmp_path, name):
    with application(tmp_path, bundle, period_seconds=0.1) as api:
        supervisor = api.app.state.services.supervisor
        killed = supervisor._tasks[name]
        killed.cancel()
        wait(api, lambda: supervisor._tasks[name] is not killed)

        api.infer(images(2), "s")
        wait(api, lambda: api.stream("s")["durable_generation"] == 1)
        metrics = api("GET", "/metrics").text

        assert not supervisor._tasks[name].done()
        assert f'acclimate_background_restarts_total{{task="{name}"}} 1.0' in metrics
        assert api("GET", "/v2/health/ready").json() == {"ready": True}


def test_a_task_that_fails_or_returns_is_started_again_and_its_end_is_logged(capsys):
    telemetry, runs, third = Telemetry(), [], asyncio.Event()

    async def job():
        runs.append(len(runs))
        if len(runs) == 1:
            raise ValueError("no such thing")
        if len(runs) > 2:
            third.set()
            await asyncio.Event().wait()

    async def scenario():
        supervisor = Supervisor(telemetry)
        supervisor.start("job", job)
        await third.wait()
        supervisor.close()
        await asyncio.sleep(0.01)
        return supervisor

    supervisor = asyncio.run(scenario())

    said = capsys.readouterr().out
    assert restarts(telemetry, "job") == 2
    assert supervisor._tasks["job"].cancelled()
    assert said.count("background_task_ended") == 2
    assert "ValueError: no such thing" in said


def test_a_thread_that_fails_goes_on_where_it_was_and_ends_when_it_returns():
    telemetry, runs = Telemetry(), []

    def job():
        runs.append(len(runs))
        if len(runs) == 1:
            raise SystemExit

    thread = Supervisor(telemetry).start_thread("writer", job)
    thread.join(10)

    assert not thread.is_alive()
    assert (len(runs), restarts(telemetry, "writer")) == (2, 1)


def test_a_task_that_keeps_failing_is_named_until_it_runs_for_a_while(monkeypatch):
    monkeypatch.setattr(supervision, "FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(supervision, "MAX_BACKOFF_SECONDS", 0.001)
    clock, told, named, waits = Clock(), [], asyncio.Event(), asyncio.Event()
    supervisor = Supervisor(Telemetry(), clock)

    async def job():
        if named.is_set():
            waits.set()
            await asyncio.Event().wait()
        clock.now += supervision.SETTLED_SECONDS - 1
        told.append(supervisor.troubles())
        if told[-1]:
            named.set()
        raise ValueError

    async def scenario():
        supervisor.start("keeper", job)
        await waits.wait()
        clock.now += supervision.SETTLED_SECONDS
        settled = supervisor.troubles()
        supervisor.close()
        return settled

    settled = asyncio.run(scenario())

    assert told[0] == settled == []
    assert told[-1] == ["the background task 'keeper' keeps failing; the log says why"]


def test_a_server_with_a_task_that_keeps_failing_is_not_ready_and_names_it(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        supervisor = api.app.state.services.supervisor
        supervisor._health["keeper"].failing_since = time.monotonic() - 60
        supervisor._health["keeper"].started = time.monotonic()

        answer = api("GET", "/v2/health/ready")

        assert answer.status_code == 503
        assert answer.json()["ready"] is False
        assert "'keeper'" in answer.json()["reason"]
