"""The benchmark of many streams on a real server: what it measures and shows."""

import json
import os
from itertools import islice

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import crowds
from benchmarks.asking import Latency
from benchmarks.crowds import Crowd, Plan, as_table, measure, order_of


class Told:
    """Stands for a server that is asked: keeps what was asked of it."""

    def __init__(self):
        self.made, self.asked = [], []

    def create(self, stream):
        self.made.append(stream)

    def infer(self, stream):
        assert stream in self.made
        self.asked.append(stream)
        return 0.25

    def resting(self):
        return ["s0"]


def test_every_stream_is_asked_once_before_any_is_asked_again_and_a_seed_gives_an_order():
    streams = [f"s{number}" for number in range(20)]

    once, again = (list(islice(order_of(streams, 3), 40)) for _ in range(2))

    assert once == again
    assert sorted(once[:20]) == sorted(once[20:]) == sorted(streams)
    assert once[:20] != once[20:]
    assert once != list(islice(order_of(streams, 4), 40))


@pytest.mark.parametrize(("streams", "warming"), [(3, 3), (8, 0)])
def test_all_streams_are_made_and_asked_once_before_the_rounds_that_count(streams, warming):
    told, advanced, plan = Told(), [], Plan(clients=2, requests=6, rounds=2, seed=0)

    crowd = measure(told, os.getpid(), streams, plan, lambda: advanced.append(1))

    assert sorted(told.made) == sorted(f"s{number}" for number in range(streams))
    assert sorted(told.asked[:streams]) == sorted(told.made)
    assert len(told.asked) == streams + warming + 2 * 6
    assert len(advanced) == plan.calls(streams)
    assert crowd.latency == Latency(12, 250, 250)
    assert (crowd.streams, crowd.resting) == (streams, 1)
    assert crowd.rss > 0


def test_ratios_are_to_the_fewest_streams():
    found = [
        Crowd(count, 50.0, 40.0, rate, Latency(9, 3.0, 7.0), 2**29, 0) for count, rate in ((1, 200.0), (10, 150.0))
    ]

    table = as_table(found, {"cores": "2"})

    assert list(table.columns[4].cells) == ["1.00", "0.75"]
    assert list(table.columns[7].cells) == ["512", "512"]


@pytest.mark.e2e
def test_the_command_measures_a_server_for_every_number_of_streams(tmp_path):
    app, written = Typer(), tmp_path / "crowds.json"
    app.command()(crowds.main)

    result = CliRunner().invoke(
        app,
        ["--streams", "3", "--streams", "1", "--clients", "2", "--requests", "4", "--rounds", "1", "--spec", "source",
         "--json", str(written)],
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    told = json.loads(written.read_text())
    assert [crowd["streams"] for crowd in told["crowds"]] == [1, 3]
    assert (told["clients"], told["spec"]) == ("2", "source")
    assert told["torch"]
    for crowd in told["crowds"]:
        assert crowd["latency"]["requests"] == 4
        assert 0 < crowd["latency"]["median"] <= crowd["latency"]["p99"]
        assert min(crowd["made"], crowd["first"], crowd["throughput"], crowd["rss"]) > 0
        assert crowd["resting"] == 0
