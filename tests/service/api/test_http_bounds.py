"""The bounds of the server: batch, bytes, streams, a full disk."""

import asyncio
import errno
import os

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.applications import INFER, application, assert_error, facts
from tests.bundles import FACTORY
from tests.serving import images, infer_body


def test_beyond_the_most_streams_a_new_one_is_refused_until_one_ends(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_streams=2) as api:
        api.create(id="a")
        api.create(id="b")
        created = api("POST", "/v1/streams", json={"id": "c"})
        inferred = api("POST", INFER, json=infer_body(images(1), "c"))
        known = api.infer(images(1), "a")
        api("DELETE", "/v1/streams/b")
        after = api.infer(images(1), "c")

    for response in (created, inferred):
        assert_error(response, 503, "there are 2 streams, as many as allowed; delete one first")
    assert facts(known)["tta_generation"] == facts(after)["tta_generation"] == 1


def test_where_inference_creates_no_streams_an_unknown_one_is_404_and_others_are_served(bundles, tmp_path):
    with application(tmp_path, bundles[0], create_streams=False) as api:
        refused = api("POST", INFER, json=infer_body(images(1), "new"))
        unnamed = api.infer(images(1))
        api.create(id="new")
        named = api.infer(images(1), "new")

    assert_error(refused, 404, "there is no stream 'new', and this server creates none by inference")
    assert facts(unnamed)["tta_mode"] == "frozen"
    assert facts(named)["tta_generation"] == 1


def test_a_stream_that_sends_too_much_at_once_is_told_to_wait(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_queue_per_stream=1) as api:
        calls = [("POST", INFER, {"json": infer_body(images(64, seed), "s")}) for seed in range(6)]
        answers = api.together(*calls)
        generation = api.stream("s")["generation"]

    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert_error(answer, 429, "1 requests of stream 's' wait, as many as allowed")
    assert generation == len(answers) - len(refused)


def test_a_full_server_is_told_by_503(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_queue=1) as api:
        for stream in "abcdef":
            api.create(id=stream)
        answers = api.together(*(("POST", INFER, {"json": infer_body(images(64), stream)}) for stream in "abcdef"))
        generations = [api.stream(stream)["generation"] for stream in "abcdef"]

    assert [answer.status_code == 200 for answer in answers] == [generation == 1 for generation in generations]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert_error(answer, 503, "1 requests wait, as many as allowed")


def test_a_turn_that_does_not_come_in_time_is_504_and_changes_nothing(bundles, tmp_path):
    with application(tmp_path, bundles[0], deadline_seconds=1e-4) as api:
        calls = [("POST", INFER, {"json": infer_body(images(64, seed), "s")}) for seed in range(6)]
        answers = api.together(*calls)
        generation = api.stream("s")["generation"]

    late = [answer for answer in answers if answer.status_code != 200]
    assert late
    for answer in late:
        assert_error(answer, 504, "nothing was changed")
    assert generation == len(answers) - len(late)


def test_a_draining_server_is_not_ready_and_refuses_what_changes_streams(api):
    api.infer(images(1), "s")
    before = api.everything()

    api.app.state.services.lifecycle.drain()

    assert api("GET", "/v2/health/live").json() == {"live": True}
    ready = api("GET", "/v2/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    for method, path, settings in (
        ("POST", INFER, {"json": infer_body(images(1), "s")}),
        ("PATCH", "/v1/streams/s", {"json": {"mode": "frozen"}}),
        ("POST", "/v1/streams/s/reset", {}),
        ("DELETE", "/v1/streams/s", {}),
        ("POST", "/v1/streams/s/snapshots", {}),
    ):
        assert_error(api(method, path, **settings), 503, "the server is stopping")
    assert api.everything() == before


@pytest.mark.parametrize("media_type", ["application/json", "image/png"])
def test_a_server_that_fills_up_while_a_body_comes_does_not_parse_it(api, media_type):
    async def body():
        yield b"{neither JSON "
        api.app.state.services.lifecycle.drain()
        yield b"nor a picture"

    answer = api("POST", INFER, content=body(), headers={"Content-Type": media_type})
    assert_error(answer, 503, "the server is stopping")


def test_before_its_start_a_server_is_live_and_not_ready(bundles, tmp_path):
    app = create_app(Settings(bundles=bundles[:1], data=tmp_path, threads=1, allow_factories=(FACTORY,)))

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.get(f"/v2/health/{what}") for what in ("live", "ready")]

    live, ready = asyncio.run(ask())

    assert (live.status_code, ready.status_code, ready.json()) == (200, 503, {"ready": False})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=["full", "read_only"])
def test_a_full_store_is_507_and_the_state_in_memory_stays(api, monkeypatch, code):
    api.infer(images(4), "s")
    before = api.everything()

    def fail(_handle):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        response = api("POST", "/v1/streams/s/snapshots")

    assert_error(response, 507, f"nothing could be kept: {os.strerror(code)}; the stream is as it was")
    assert api.everything() == before
    assert api("POST", "/v1/streams/s/snapshots").status_code == 201
