"""The event log: ids, filters, memory and database, listeners, and a database that is locked or broken."""

import asyncio
import json
import math
import sqlite3
import threading
import time
from contextlib import contextmanager

import pytest

from service.errors import SettingsError
from service.storage import event_log as events_module
from service.storage.backends.database import open_database
from service.storage.backends.sqlite import BUSY_SECONDS
from service.storage.event_log import EventLog
from service.storage.store_calls import StoreCalls
from service.support.supervision import Supervisor
from service.telemetry.metrics import Telemetry
from service.types import Happening
from tests.bundles import torch_bundle
from tests.serving import SLACK_SECONDS, images, infer_body, serving, wait_ready

FEW = 8


def log_in(file):
    return EventLog(
        open_database(f"sqlite:///{file}", file.parent, sharded=True), Supervisor(Telemetry()), StoreCalls()
    )


@contextmanager
def opened(folder, name="acclimate.db"):
    log = log_in(folder / name)
    try:
        yield log
    finally:
        log.close()


def add(log, count, stream="s"):
    return [log.add(Happening("drift", f"reason {number}"), stream, "m") for number in range(count)]


def ids(found):
    return [told.id for told in found]


@pytest.fixture
def little_memory(monkeypatch):
    """Only some events are answered from memory."""
    monkeypatch.setattr(events_module, "IN_MEMORY", FEW)


def test_ids_rise_by_one_from_whatever_thread_events_come(tmp_path):
    with opened(tmp_path) as log:
        threads = [threading.Thread(target=add, args=(log, 50)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert ids(log.since(0)) == list(range(1, 201))


def test_events_survive_a_restart_and_ids_go_on(tmp_path):
    with opened(tmp_path) as log:
        before = add(log, 3)
    with opened(tmp_path) as log:
        after = add(log, 2)

        assert log.since(0) == [*before, *after]
        assert ids(after) == [4, 5]


def test_an_event_keeps_all_that_was_told_but_figures_that_are_none(tmp_path):
    with opened(tmp_path) as log:
        told = log.add(Happening("guard", "why", "reset", {"gap": 1, "lost": math.nan, "far": math.inf}), "s", "m")
    with opened(tmp_path) as log:
        stored = log.since(0)[0]

    assert stored == told
    assert (told.kind, told.stream, told.model, told.action, told.reason) == ("guard", "s", "m", "reset", "why")
    assert told.figures == {"gap": 1.0}
    assert abs(told.time - time.time()) < 60


def filled(log):
    for number in range(30):
        add(log, 1, "even" if number % 2 else "odd")


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.usefixtures("little_memory")
def test_since_limit_and_stream_choose_the_same_events_from_memory_and_from_the_database(tmp_path, restarted):
    with opened(tmp_path) as log:
        filled(log)
        if restarted:
            log.close()
            log = log_in(tmp_path / "acclimate.db")

        for after in (0, 1, 15, 21, 22, 23, 28, 30, 99):
            for limit in (1, 5, 100):
                expected = list(range(after + 1, 31))
                assert ids(log.since(after, limit)) == expected[:limit]
                odd = [number for number in expected if number % 2]
                assert ids(log.since(after, limit, "odd")) == odd[:limit]
        assert log.since(0, 100, "nobody") == []
        assert ids(log.latest("odd", 2)) == [27, 29]
        log.close()


async def heard(log, count, after=0, stream=None, pause=0.0):
    found = []
    async for page in log.follow(after, stream):
        found += ids(page)
        await asyncio.sleep(pause)
        if len(found) >= count:
            return found
    return found


@pytest.mark.usefixtures("little_memory")
def test_a_slow_listener_catches_up_and_misses_nothing(tmp_path):
    async def run():
        with opened(tmp_path) as log:
            listening = asyncio.ensure_future(heard(log, 200, pause=0.01))
            for _ in range(20):
                await asyncio.to_thread(add, log, 10)
            return await asyncio.wait_for(listening, 30)

    assert asyncio.run(run()) == list(range(1, 201))


@pytest.mark.usefixtures("little_memory")
def test_a_listener_of_one_stream_hears_it_after_many_others(tmp_path):
    async def run():
        with opened(tmp_path) as log:
            listening = asyncio.ensure_future(heard(log, 2, stream="s"))
            await asyncio.to_thread(add, log, 3 * FEW, "other")
            await asyncio.to_thread(add, log, 1)
            await asyncio.to_thread(add, log, 3 * FEW, "other")
            await asyncio.to_thread(add, log, 1)
            return await asyncio.wait_for(listening, 30)

    assert asyncio.run(run()) == [3 * FEW + 1, 6 * FEW + 2]


def test_listeners_are_let_go_when_the_log_closes(tmp_path):
    async def run():
        with opened(tmp_path) as log:
            listeners = [asyncio.ensure_future(heard(log, 100)) for _ in range(3)]
            await asyncio.to_thread(add, log, 2)
            await asyncio.sleep(0)
            log.wake()
            return await asyncio.wait_for(asyncio.gather(*listeners), 10), log._listeners

    found, left = asyncio.run(run())

    assert all(each in ([1, 2], []) for each in found)
    assert left == {}


@contextmanager
def locked(file):
    """Hold the database so that nobody else writes."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_while_the_database_is_locked_adding_and_reading_do_not_wait(tmp_path):
    with opened(tmp_path) as log:
        add(log, 1)
        with locked(tmp_path / "acclimate.db"):
            began = time.perf_counter()
            add(log, 1000)
            found = log.since(0, 2000)
            seconds = time.perf_counter() - began

    assert seconds < BUSY_SECONDS
    assert len(found) == 1001


def test_what_could_not_be_written_for_long_is_written_later(tmp_path, monkeypatch):
    given_up, error = threading.Event(), events_module.log.error

    def told(event, **facts):
        error(event, **facts)
        given_up.set()

    monkeypatch.setattr(events_module.log, "error", told)
    with opened(tmp_path) as log:
        add(log, 2)
        with locked(tmp_path / "acclimate.db"):
            add(log, 2)
            assert given_up.wait(30)
        add(log, 2)
    with opened(tmp_path) as log:
        assert ids(log.since(0)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("little_memory")
def test_events_that_are_in_memory_alone_are_told_though_the_database_cannot_be_read(tmp_path):
    with opened(tmp_path) as log:
        add(log, 3 * FEW)
        log.close()
        log._engine.dispose()
        (tmp_path / "acclimate.db").write_bytes(b"broken" * 1000)

        assert ids(log.since(0, 100)) == list(range(2 * FEW + 1, 3 * FEW + 1))


def foreign_table(file):
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, text TEXT)")
    connection.commit()
    connection.close()


def broken_figures(file):
    log_in(file).close()
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO events VALUES (1, 0, '', '', '', '', '', '{')")
    connection.commit()
    connection.close()


UNOPENABLE = [
    pytest.param(lambda file: file.write_bytes(b"garbage" * 1000), id="no database"),
    pytest.param(lambda file: file.mkdir(), id="a folder"),
    pytest.param(foreign_table, id="another table"),
    pytest.param(broken_figures, id="broken figures"),
]


@pytest.mark.parametrize("make", UNOPENABLE)
def test_a_database_that_cannot_be_opened_is_named(tmp_path, make):
    make(tmp_path / "log.db")

    with pytest.raises(SettingsError, match=r"log\.db (cannot be opened|is damaged)|the event log cannot be read"):
        log_in(tmp_path / "log.db")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingsError, match="cannot be opened"):
        log_in(tmp_path / "file" / "log.db")


def test_events_are_listed_page_by_page_over_http(api):
    for name in ("a", "b", "c"):
        api.create(id=name)
    api("POST", "/v1/streams/b/reset")

    first = api("GET", "/v1/events?limit=2").json()
    second = api("GET", f"/v1/events?limit=2&since={first['next']}").json()
    rest = api("GET", f"/v1/events?limit=2&since={second['next']}").json()

    assert [item["stream"] for item in (*first["items"], *second["items"])] == ["a", "b", "c", "b"]
    assert [item["kind"] for item in second["items"]] == ["created", "reset"]
    assert (rest["items"], rest["next"]) == ([], None)
    assert [item["id"] for item in api("GET", "/v1/events?stream=b").json()["items"]] == [2, 4]


@pytest.mark.parametrize("query", ["since=-1", "limit=0", "limit=1001", "since=x", f"since={2**63}"])
def test_queries_of_another_form_are_refused(api, query):
    assert api("GET", f"/v1/events?{query}").status_code == 422


def told_live(client, count, path="/v1/events/live", **headers):
    """Return the first events of a live answer: (id, stream)."""
    found, last = [], ""
    with client.stream("GET", path, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("id:"):
                last = line[3:].strip()
            if line.startswith("data:"):
                found.append(json.loads(line[5:]))
            if line == "" and len(found) == count and last == str(found[-1]["id"]):
                return [(event["id"], event["stream"]) for event in found]
    return found


@pytest.mark.e2e
def test_live_events_come_resume_and_end_with_the_server(tmp_path):
    with serving(tmp_path, "--bundle", str(torch_bundle(tmp_path / "reference"))) as server:
        wait_ready(server)
        with server.client() as client:
            for name in ("a", "b", "c"):
                body = infer_body(images(2), name)
                assert client.post("/v2/models/reference/infer", json=body).status_code == 200

            assert told_live(client, 3, "/v1/events/live?since=0") == [(1, "a"), (2, "b"), (3, "c")]
            assert told_live(client, 1, **{"Last-Event-ID": "2"}) == [(3, "c")]
            assert told_live(client, 2, "/v1/events/live?since=2", **{"Last-Event-ID": "1"}) == [(2, "b"), (3, "c")]
            assert told_live(client, 1, "/v1/events/live?since=0&stream=b") == [(2, "b")]
            live = "/v1/events/live?since=2"
            assert told_live(client, 1, live, **{"Last-Event-ID": "9" * 5000}) == [(3, "c")]

            with (
                client.stream("GET", "/v1/events/live") as events,
                client.stream("GET", "/v1/overview/live") as overview,
                client.stream("GET", "/v1/streams/a/history/live") as history,
            ):
                began = time.perf_counter()
                status = server.stop()
                seconds = time.perf_counter() - began
                assert [each.status_code for each in (events, overview, history)] == [200] * 3

    assert status == 0
    assert seconds < SLACK_SECONDS
