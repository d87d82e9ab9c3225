"""Texts that PostgreSQL cannot hold: refused at the edge, and no reason for other streams or events to be lost."""

import json
from urllib.parse import quote

import pytest

from service.storage.event_log import EVENTS
from service.types import Happening
from tests.applications import INFER, JSON, application, assert_error
from tests.bundles import torch_bundle
from tests.serving import images, infer_body
from tests.stored import wait

NUL = "a\0b"
LONE = "\ud800"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture(params=["sqlite", "postgres"])
def api(request, bundle, tmp_path):
    settings = {}
    if request.param == "postgres":
        settings = {"database": request.getfixturevalue("postgres_cluster").new_database(), "sharded": True}
    with application(tmp_path, bundle, period_steps=1, **settings) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [(NUL, 422, "without NUL and lone surrogates"), ("\0", 422, "without NUL"), (LONE, 400, "is not JSON")],
)
@pytest.mark.parametrize("durability", ["periodic", "sync"])
def test_a_request_id_that_no_store_can_hold_is_refused_and_the_stream_goes_on(api, text, status, said, durability):
    api.create(id="s", durability=durability)
    api.create(id="other")
    body = json.dumps(infer_body(images(2), "s", text))

    refused = api("POST", INFER, content=body, headers=JSON)

    assert_error(refused, status, said)
    for name in ("s", "other"):
        api.infer(images(2, 1), name, "fine é")
    wait(api, lambda: [api.stream(name)["durable_generation"] for name in ("s", "other")] == [1, 1])


@pytest.mark.parametrize("path", ["/v1/streams/{}", "/v1/snapshots/{}", "/v1/snapshots/{}/download"])
def test_a_path_with_such_a_text_is_unknown(api, path):
    assert_error(api("GET", path.format(quote(NUL))), 404, "there is no")


def test_events_with_such_texts_are_written_and_hold_up_no_others(api):
    recorder = api.app.state.services.residence._recorder
    log = recorder._events
    for reason in ("before", f"GET /{NUL}", f"GET /{LONE}", "after"):
        recorder.log_by_id("s", "reference", Happening("seen", reason))

    def stored():
        with log._engine.connect() as connection:
            return [row.reason for row in connection.execute(EVENTS.select().order_by(EVENTS.c.id))]

    wait(api, lambda: len(stored()) == 4)
    assert stored() == ["before", "GET /a\\x00b", "GET /\\ud800", "after"]
    assert api("GET", f"/v1/events?stream={quote(NUL)}").json()["items"] == []


def test_an_event_that_cannot_be_written_or_is_there_already_holds_up_no_others(api):
    log = api.app.state.services.residence._recorder._events
    first = log.add(Happening("seen", "first"))
    wait(api, lambda: not log._pending and log._unwritten.empty())

    log._pending.append(first)  # as where the reply to its commit was lost
    log._pending.append(first.__class__(first.id + 10, first.time, "seen", "s" * 1000, "m", "", "too long", {}))
    log._pending.append(first.__class__(first.id + 11, first.time, "seen", "s", "m", "", "last", {}))
    log._write_pending()

    with log._engine.connect() as connection:
        reasons = [row.reason for row in connection.execute(EVENTS.select().order_by(EVENTS.c.id))]
    assert (reasons[0], reasons[-1]) == ("first", "last")
    assert not log._pending
