"""What is shown of streams: badges, the overview, a stream's history, and what listeners hear."""

import asyncio
import time
from dataclasses import replace
from types import MappingProxyType

import pytest

from service.models.bundle import read_bundle
from service.models.hosted import host
from service.monitoring.suspicion import NONE, Suspicion
from service.serving import overview as watching_module
from service.serving.overview import Watching
from service.streams.records import Event
from service.streams.value import LEAST_REQUESTS, Counters
from service.types import Happening
from tests.applications import application, assert_error
from tests.bundles import FACTORY
from tests.serving import images
from tests.streams import stream_of


def event(kind, age=0.0, action=""):
    return Event(1, time.time() - age, kind, "s", "m", action, "so it was", {})


SUSPECTED = Suspicion("contradiction", "it contradicts a confident source model")


class Table(dict):
    """Streams by id, iterated over as the real table's."""

    def __iter__(self):
        return iter(list(self.values()))

    find = dict.get
    resting = MappingProxyType({})


BADGES = [
    pytest.param(lambda: {"requests": 1}, "new", id="new"),
    pytest.param(lambda: {"trouble": event("drift"), "requests": 1}, "drifting", id="new but drifting"),
    pytest.param(lambda: {"trouble": event("settled")}, "steady", id="settled"),
    pytest.param(lambda: {"suspicion": SUSPECTED}, "suspected", id="suspected"),
    pytest.param(lambda: {"mode": "frozen", "suspicion": SUSPECTED}, "suspected", id="suspected while frozen"),
    pytest.param(
        lambda: {"trouble": event("guard", action="rolled_back"), "suspicion": SUSPECTED},
        "suspected",
        id="suspected again",
    ),
    pytest.param(dict, "steady", id="steady"),
    pytest.param(lambda: {"trouble": event("drift")}, "drifting", id="drifting"),
    pytest.param(lambda: {"trouble": event("seen")}, "drifting", id="seen"),
    pytest.param(lambda: {"trouble": event("drift", age=601)}, "steady", id="drifted long ago"),
    pytest.param(lambda: {"trouble": event("guard", action="rolled_back")}, "guarded", id="guarded"),
    pytest.param(lambda: {"trouble": event("guard", age=601)}, "steady", id="guarded long ago"),
    pytest.param(lambda: {"mode": "frozen"}, "frozen", id="frozen"),
    pytest.param(
        lambda: {"trouble": event("guard", action="frozen"), "mode": "frozen"}, "guarded", id="frozen by its guard"
    ),
    pytest.param(
        lambda: {"trouble": event("guard", 601, "frozen"), "mode": "frozen"},
        "frozen",
        id="frozen by its guard long ago",
    ),
    pytest.param(lambda: {"trouble": event("drift"), "mode": "shadow"}, "shadow", id="shadow"),
]


@pytest.fixture(scope="module")
def model(bundles):
    return host(read_bundle(bundles[0]), [FACTORY], 1)


def shown(model, stream_id="s", *, trouble=None, mode="adapt", requests=LEAST_REQUESTS, suspicion=NONE):
    """A stream in a state that requests lead to."""
    stream = stream_of(model, "source", stream_id=stream_id, mode=mode)
    readings = replace(stream.current.readings, suspicion=suspicion)
    stream.current = replace(stream.current, counters=Counters(requests=requests), readings=readings)
    stream.trouble = trouble
    return stream


def move(stream):
    stream.current = stream.current.with_next(stream.current.state)


@pytest.mark.parametrize(("facts", "badge"), BADGES)
def test_a_badge_tells_how_a_stream_is(model, facts, badge):
    stream = shown(model, **facts())

    told, reason = Watching({}, Table(), None).badge(stream)

    assert told == badge
    assert reason
    assert badge != "guarded" or reason == f"{stream.trouble.action.replace('_', ' ')}: so it was"


@pytest.mark.parametrize(("guard_age", "badge"), [(0, "guarded"), (599, "guarded"), (601, "drifting")])
def test_a_drift_hides_no_guard_that_acted_a_moment_ago(api, guard_age, badge):
    api.infer(images(4), "s")
    residence = api.app.state.services.residence
    stream = residence.table.find("s")
    recorder = residence._recorder

    recorder.log(stream, Happening("guard", "one class", "rolled_back"))
    stream.trouble = replace(stream.trouble, time=stream.trouble.time - guard_age)
    recorder.log(stream, Happening("drift", "entropy rose"))
    recorder.log(stream, Happening("seen", "entropy rose again"))

    (row,) = api("GET", "/v1/overview").json()["streams"]
    assert row["badge"] == badge
    assert row["reason"] == ("rolled back: one class" if badge == "guarded" else "entropy rose again")


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(watching_module, "CHANGES_SECONDS", 0.01)
    monkeypatch.setattr(watching_module, "MOVES_SECONDS", 0.01)


@pytest.mark.usefixtures("hurried")
def test_listeners_hear_of_changes_new_streams_and_ended_ones_until_the_server_stops(model):
    async def run():
        table = Table(a=shown(model, "a"))
        watching, heard = Watching({}, table, None), []
        changes = watching.changes()
        for act in ("new", "used", "gone"):
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.03)
            if act == "new":
                table["s"] = shown(model)
            elif act == "used":
                move(table["a"])
            else:
                del table["s"]
            changed, gone = await asyncio.wait_for(waiting, 10)
            heard.append(([stream.id for stream in changed], gone))
        watching.close()
        return heard, [left async for left in changes]

    heard, left = asyncio.run(run())

    assert heard == [(["s"], []), (["a"], []), ([], ["s"])]
    assert left == []


@pytest.mark.usefixtures("hurried")
def test_who_watches_a_stream_hears_at_once_then_of_each_move_until_it_ends(model):
    async def run():
        stream = shown(model)
        table, heard = Table(s=stream), 0
        async for _ in Watching({}, table, None).moves(stream):
            heard += 1
            move(stream)
            if heard == 3:
                table["s"] = shown(model)  # another stream of the same id
        return heard

    assert asyncio.run(asyncio.wait_for(run(), 10)) == 3


def test_the_overview_shows_streams_and_models(api):
    api.create(id="b")
    for number in range(3):
        api.infer(images(4, number), "a")

    overview = api("GET", "/v1/overview").json()

    rows = overview["streams"]
    assert [(row["id"], row["badge"], row["requests"], row["images"]) for row in rows] == [
        ("a", "new", 3, 12),
        ("b", "new", 0, 0),
    ]
    assert len(rows[0]["spark"]) == 3
    assert rows[0]["entropy"] == pytest.approx(rows[0]["spark"][-1], abs=1e-4)
    assert [model["name"] for model in overview["models"]] == ["reference"]
    assert overview["event"] == 2


def test_a_history_tells_the_series_and_then_only_what_is_newer(api):
    for number in range(3):
        api.infer(images(4, number), "s")

    first = api("GET", "/v1/streams/s/history").json()
    nothing = api("GET", f"/v1/streams/s/history?since={first['next']}").json()
    api.infer(images(4, 9), "s")
    more = api("GET", f"/v1/streams/s/history?since={first['next']}").json()

    cursor = first["columns"].index("cursor")
    assert [point[cursor] for point in first["points"]] == [1, 2, 3]
    assert len(first["layers"]["times"]) == 1
    assert len(first["layers"]["values"][0]) == len(first["layers"]["names"]) == 3
    assert (nothing["points"], nothing["layers"]["times"]) == ([], [])
    assert [point[cursor] for point in more["points"]] == [4]
    assert more["next"] == 4
    assert sum(first["classes"]["shares"]) == pytest.approx(1, abs=1e-3)
    assert [event["kind"] for event in first["events"]] == ["created"]
    assert first["misfits"] == []


def test_only_the_first_look_has_layers_where_nothing_newer_was_looked_at(api):
    api.infer(images(4), "s")
    first = api("GET", "/v1/streams/s/history").json()

    again = api("GET", f"/v1/streams/s/history?since={first['next']}").json()

    assert len(first["layers"]["times"]) == 1
    assert again["layers"]["times"] == []


def test_images_are_shown_only_where_the_operator_allows_it(bundles, tmp_path):
    with application(tmp_path, bundles[0], keep_misfits=2) as api:
        for number in range(4):
            api.infer(images(4, number), "s")

        misfits = api("GET", "/v1/streams/s/history").json()["misfits"]

    assert len(misfits) == 2
    assert all(misfit["image"].startswith("data:image/png;base64,") for misfit in misfits)


def test_there_is_no_history_of_a_stream_that_is_not_there(api):
    for path in ("history", "history/live"):
        assert_error(api("GET", f"/v1/streams/nope/{path}"), 404, "there is no stream 'nope'")


def test_a_span_of_a_history_comes_at_the_finest_resolution_that_reaches_back_as_far(api):
    for number in range(3):
        api.infer(images(4, number), "spanned")

    answers = {
        seconds: api("GET", f"/v1/streams/spanned/history?seconds={seconds}").json() for seconds in (900, 86_400)
    }

    assert {seconds: answer["resolution"] for seconds, answer in answers.items()} == {900: 1, 86_400: 300}
    for answer in answers.values():
        assert sum(point[answer["columns"].index("requests")] for point in answer["points"]) == 3
        assert answer["oldest"] <= time.time()
    assert_error(api("GET", "/v1/streams/spanned/history?seconds=0"), 422, "seconds")


def test_a_history_survives_a_restart(bundles, tmp_path):
    with application(tmp_path, bundles[0]) as before:
        for number in range(3):
            before.infer(images(4, number), "s")

    with application(tmp_path, bundles[0]) as after:
        past = after("GET", "/v1/streams/s/history?seconds=3600").json()
        after.infer(images(4, 9), "s")
        more = after("GET", f"/v1/streams/s/history?since={past['next']}").json()

    assert sum(point[past["columns"].index("requests")] for point in past["points"]) == 3
    assert past["next"] == 3
    assert [point[0] for point in more["points"]] == [4]
