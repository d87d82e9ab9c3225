"""A stream whose step has ended the process twice is held back at the next start; others go on."""

import asyncio
import re
import signal
import time

import httpx
import pytest
import torch

from service.models.bundle import read_bundle
from service.models.hosted import host
from service.serving.suspects import Suspects
from service.storage.step_journal import StepJournal
from tests import hazards
from tests.applications import INFER, application, assert_error
from tests.bundles import FACTORY, torch_bundle
from tests.dying import dying
from tests.holding import asked_together, begin, running
from tests.serving import images, infer_body, serving, wait_ready

ASK = "/v2/models/hazard/infer"
SPEC = "batch+tent"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


def counted(folder, *stream_ids):
    journal = StepJournal(folder)
    found = [journal.count(stream_id) for stream_id in stream_ids]
    journal.close()
    return found


def held(api):
    return [event for event in api("GET", "/v1/events").json()["items"] if event["kind"] == "held"]


def test_each_stream_under_way_when_the_process_ends_counts_one(tmp_path):
    dying(tmp_path, "a", "b")
    assert counted(tmp_path, "a", "b", "c") == [1, 1, 0]
    dying(tmp_path, "b")
    assert counted(tmp_path, "a", "b", "c") == [1, 2, 0]
    assert counted(tmp_path, "a", "b", "c") == [1, 2, 0]


def test_a_process_that_ends_while_idle_or_in_order_counts_nothing(tmp_path):
    dying(tmp_path, "a-longer-name", "b", idle=True)
    journal = StepJournal(tmp_path)
    with journal.under_way(["a"]):
        journal.close()  # as at a stop beside a step that hangs
    assert counted(tmp_path, "a-longer-name", "a", "b") == [0, 0, 0]
    assert list(tmp_path.glob("*.journal")) == []


def test_the_journal_of_a_process_that_lives_is_left_alone(tmp_path):
    living = StepJournal(tmp_path)
    with living.under_way(["a"]):
        assert counted(tmp_path, "a") == [0]
        assert len(list(tmp_path.glob("*.journal"))) == 1
    living.close()


def test_counts_outlive_the_process_and_a_damaged_file_costs_them_alone(tmp_path):
    journal = StepJournal(tmp_path)
    journal.set_count("a", 2)
    journal.set_count("b", 1)
    journal.set_count("b", 0)
    journal.close()
    assert counted(tmp_path, "a", "b") == [2, 0]
    for damage in (b"", b"[1]", b'{"a": "x"}', b"\xff"):
        (tmp_path / "counts.json").write_bytes(damage)
        (tmp_path / "1-half.journal").write_bytes(b"c d")  # without the end of its line
        assert counted(tmp_path, "a", "c", "d") == [0, 0, 0]


def test_a_folder_that_cannot_be_written_stops_no_step(tmp_path):
    (tmp_path / "file").write_text("")
    journal = StepJournal(tmp_path / "file")
    with journal.under_way(["a"]):
        pass
    journal.set_count("a", 1)
    assert journal.count("a") == 1


def test_marks_cost_microseconds(tmp_path):
    journal, took = StepJournal(tmp_path), []
    for _ in range(2000):
        began = time.perf_counter()
        with journal.under_way(["camera-7"]):
            pass
        took.append(time.perf_counter() - began)
    journal.close()
    assert sorted(took)[len(took) // 2] < 100e-6


def test_a_suspect_shares_no_step_with_others(tmp_path, bundle):
    model = host(read_bundle(bundle), [FACTORY], 1)
    dying(tmp_path, "s1")

    async def scenario():
        async with running() as run:
            run.scheduler._suspects = Suspects(StepJournal(tmp_path))
            requests = [(begin(model, f"s{number}"), torch.from_numpy(images(2, number))) for number in range(4)]
            await asked_together(run, model, requests)
            return run.groups_of(model)

    assert asyncio.run(scenario()) == (1, 3)


def test_the_first_good_step_clears_one_end_and_a_change_of_settings_does_not(tmp_path, bundle):
    steps = tmp_path / "data" / "steps"
    with application(tmp_path, bundle) as api:
        api.create(id="s", adapter=SPEC, durability="sync")
    dying(steps, "s")
    with application(tmp_path, bundle) as api:
        assert api("PATCH", "/v1/streams/s", json={"adapt_batch_size": 2}).status_code == 200
        api.infer(images(1), "s")  # waits, and is no step yet
    dying(steps, "t")
    assert counted(steps, "s") == [1]
    with application(tmp_path, bundle) as api:
        assert api.infer(images(2), "s")["parameters"]["tta_mode"] == "adapt"
        assert held(api) == []
    assert counted(steps, "s") == [0]


def badges(api):
    return {row["id"]: row["badge"] for row in api("GET", "/v1/overview").json()["streams"]}


@pytest.mark.parametrize("durability", ["ephemeral", "periodic", "sync"])
def test_a_stream_that_ended_the_process_twice_comes_back_frozen_until_it_is_let_go(tmp_path, bundle, durability):
    steps = tmp_path / "data" / "steps"
    with application(tmp_path, bundle) as api:
        api.create(id="s", adapter=SPEC, durability=durability)
        api.create(id="other")
        api.infer(images(2), "s")
        assert badges(api) == {"other": "new", "s": "new"}
    dying(steps, "s", "other")
    dying(steps, "s")
    with application(tmp_path, bundle) as api:
        assert badges(api) == {"other": "resting", "s": "held"}
        for seed in range(3):
            assert api.infer(images(2, seed), "s")["parameters"]["tta_action"] == "frozen"
        told = held(api)
        assert [event["stream"] for event in told] == ["s"]
        row = api("GET", "/v1/overview").json()["streams"][1]
        assert (row["id"], row["badge"], row["reason"]) == ("s", "held", told[0]["reason"])
        assert re.search("ended the process 2 times: it is frozen.*PATCH mode adapt.*reset", told[0]["reason"])
        assert 'acclimate_events_total{action="held"} 1.0' in api("GET", "/metrics").text
    assert counted(steps, "s") == [2]
    with application(tmp_path, bundle) as api:
        assert api("PATCH", "/v1/streams/s", json={"mode": "adapt"}).json()["mode"] == "adapt"
        assert badges(api)["s"] == "new"
        assert len(held(api)) == 2
        dying(steps, "s")  # once more, and it is held back again
    with application(tmp_path, bundle) as api:
        assert api.stream("s")["mode"] == "frozen"
        assert api("PATCH", "/v1/streams/s", json={"mode": "adapt"}).status_code == 200
        assert api.infer(images(2), "s")["parameters"]["tta_action"] == "kept"
    assert counted(steps, "s") == [0]


def test_a_stream_that_was_not_kept_yet_is_held_back_when_it_is_made_anew(tmp_path, bundle):
    steps = tmp_path / "data" / "steps"
    dying(steps, "s")
    dying(steps, "s", "u")
    with application(tmp_path, bundle) as api:
        assert api.infer(images(2), "s")["parameters"]["tta_mode"] == "frozen"
        assert api.infer(images(2), "u")["parameters"]["tta_mode"] == "adapt"
        assert [event["stream"] for event in held(api)] == ["s"]


def test_a_stream_that_ends_the_process_even_when_frozen_is_refused_until_it_is_reset(tmp_path, bundle):
    steps = tmp_path / "data" / "steps"
    with application(tmp_path, bundle) as api:
        api.create(id="s", adapter=SPEC, durability="sync")
        api.infer(images(2), "s")
    for _ in range(3):
        dying(steps, "s")
    with application(tmp_path, bundle) as api:
        refused = api("POST", INFER, json=infer_body(images(2), "s"))
        assert_error(
            refused, 409, "its step ended the process 3 times; PATCH mode adapt to let it learn again, or reset"
        )
        assert api("POST", "/v1/streams/s/reset").status_code == 200
        assert api.infer(images(2), "s")["parameters"]["tta_mode"] == "frozen"
        assert "its requests are refused" in held(api)[0]["reason"]


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_network_that_kills_the_server_twice_learns_no_more_at_the_third_start(tmp_path, kills):
    bundle, steps = hazards.hazard_bundle(tmp_path / "bundle", SPEC), tmp_path / "data" / "steps"
    allowed = {"ACCLIMATE_ALLOW_FACTORIES": f'["{hazards.FACTORY}", "tests.models:untrained_reference_network"]'}
    for _ in range(2 - kills):
        dying(steps, "guilty")
    for _ in range(kills):
        with serving(tmp_path, "--bundle", str(bundle), environment=allowed) as server, server.client() as client:
            wait_ready(server)
            for stream in ("guilty", "innocent"):
                client.post("/v1/streams", json={"id": stream, "model": "hazard", "durability": "sync"})
            with pytest.raises(httpx.TransportError):
                client.post(ASK, json=infer_body(hazards.asking(hazards.KILL), "guilty"))
            assert server.process.wait(30) == -signal.SIGKILL

    with application(tmp_path, bundle, allow_factories=(hazards.FACTORY,)) as api:
        modes = {
            stream: api("POST", ASK, json=infer_body(images(2), stream)).json()["parameters"]["tta_mode"]
            for stream in ("guilty", "innocent")
        }
        assert [event["stream"] for event in held(api)] == ["guilty"]
    assert modes == {"guilty": "frozen", "innocent": "adapt"}
    assert sorted(path.name for path in steps.iterdir()) == ["counts.json", "lock"]
