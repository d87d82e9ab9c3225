"""The benchmark of arrivals at a rate: what it measures and shows."""

import asyncio
import json
import time

import httpx
import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import arrivals
from benchmarks.arrivals import Answer, Plan, Request, as_table, capacity, load_of, measure, open_loop, summed_up
from tests.resnet20_data import write_data

REQUESTS = [Request(name.encode(), {}) for name in "abc"]


def answered_by(handler, scenario):
    """Run a scenario with clients whose requests a function answers."""

    async def run():
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://server") as client:
            return await scenario([client])

    return asyncio.run(run())


def test_requests_go_to_the_streams_in_turn_at_fixed_instants_whatever_is_answered():
    seen = []

    def handler(request):
        seen.append(request.content)
        time.sleep(0.02 if len(seen) == 1 else 0)
        return httpx.Response(503 if len(seen) == 2 else 200)

    answers = answered_by(handler, lambda clients: open_loop(clients, REQUESTS, 1000, 0.006))

    assert sorted(seen) == [b"a", b"a", b"b", b"b", b"c", b"c"]
    assert [answer.due for answer in answers] == [number / 1000 for number in range(6)]
    assert sorted(answer.status for answer in answers) == [200] * 5 + [503]
    assert all(answer.seconds >= answer.late >= 0 for answer in answers), "latency holds what was sent too late"
    assert answers[-1].late > 0, "the client was held up when it was due"


def test_a_lost_connection_is_an_answer_too():
    def handler(request):
        raise httpx.ConnectError("gone")

    (answer,) = answered_by(handler, lambda clients: open_loop(clients, REQUESTS, 10, 0.1))

    assert answer.status == 0


def test_a_capacity_is_of_requests_that_are_answered():
    with pytest.raises(RuntimeError, match="answered by 503"):
        answered_by(lambda _: httpx.Response(503), lambda clients: capacity(clients, REQUESTS, 0.01))


def test_a_load_counts_answers_until_the_last_and_tells_refusals_from_failures():
    statuses = (200, 200, 200, 429, 503, 504, 0, 200)
    answers = [Answer(status, number, 0.0, 1.0 + number) for number, status in enumerate(statuses)]

    load = load_of(answers, 0.5, 2.0, 8.0)

    assert (load.share, load.offered, load.refused, load.failed) == (0.5, 1.0, 0.25, 0.25)
    assert (load.answered, load.reached) == (4 / 15, 2 / 15)
    assert (load.median, load.most) == (2500, 8000)


def test_rounds_are_summed_up_by_medians_and_their_longest_latency():
    loads = [load_of([Answer(200, 0.0, 0.0, seconds)], 1, 1.0, 1.0) for seconds in (0.1, 0.9, 0.2)]

    found = summed_up(loads)

    assert (found.median, found.most) == (200, 900)
    assert list(as_table([found], {"cores": "2"}).columns[-2].cells) == ["900.0"]


def test_every_round_offers_all_shares_of_a_capacity_of_its_own():
    said = []
    plan = Plan((0.5, 0.9), 2, 0.02)

    most, loads = answered_by(
        lambda _: httpx.Response(200), lambda clients: measure(clients, REQUESTS, plan, said.append)
    )

    assert [each.split(" ")[0] for each in said] == ["warmed", *["capacity", "0.5", "0.9"] * 2]
    assert [load.share for load in loads] == [0.5, 0.9]
    assert most > 0
    assert all(load.refused == load.failed == 0 for load in loads)


@pytest.mark.e2e
def test_the_command_measures_a_server_at_every_share(tmp_path):
    write_data(tmp_path, "brightness", 4)
    app, written = Typer(), tmp_path / "arrivals.json"
    app.command()(arrivals.main)

    result = CliRunner().invoke(
        app,
        ["--data", str(tmp_path), "--share", "0.5", "--share", "1.1", "--spec", "source", "--streams", "3",
         "--images", "2", "--seconds", "0.3", "--rounds", "1", "--threads", "1", "--json", str(written)],
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    told = json.loads(written.read_text())
    assert (told["streams"], told["images per request"]) == ("3", "2")
    assert told["torch"]
    assert told["capacity"] > 0
    assert [load["share"] for load in told["loads"]] == [0.5, 1.1]
    for load in told["loads"]:
        assert load["offered"] > 0
        assert load["failed"] == 0
        assert 0 < load["median"] <= load["p99"] <= load["most"]
