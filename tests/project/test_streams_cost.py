"""The benchmark of many streams: what it measures and shows."""

import json

import torch
from typer.testing import CliRunner

from benchmarks import streams
from benchmarks.streams import Throughput, as_table
from tests.resnet20_data import write_data


def found(**figures):
    usual = {"backend": "compiled", "eager": 100.0, "alone": 500.0, "served": 500.0, "least": 0, "apart": 0.0}
    return Throughput("source", **{**usual, **figures})


def test_what_gets_less_than_four_times_pytorchs_throughput_or_less_than_its_own_backends_is_told():
    rows = [found(), found(served=399.0), found(alone=1000.0, least=2), found(alone=500.0, served=480.0)]
    table = as_table(rows, 64, {"cores": "2"})

    assert list(table.columns[-1].cells) == ["passes", "below 4 or 0.95", "below 4 or 0.95", "passes"]
    assert list(table.columns[-2].cells) == ["no", "no", "from 2 on", "no"]
    assert [row.times_alone for row in rows] == [1.0, 1.0, 0.5, 1.0]


def test_the_command_serves_streams_in_three_ways_with_equal_answers(tmp_path):
    write_data(tmp_path, "brightness", 8)
    app, written = streams.typer.Typer(), tmp_path / "streams.json"
    app.command()(streams.main)
    threads = torch.get_num_threads()

    result = CliRunner().invoke(
        app,
        ["--data", str(tmp_path), "--spec", "unmix_tns", "--streams", "12", "--repetitions", "1", "--threads", "1",
         "--no-compiled", "--json", str(written)],
    )  # fmt: skip
    torch.set_num_threads(threads)

    assert result.exit_code == 0, result.output
    told = json.loads(written.read_text())
    (figures,) = told["figures"]
    assert (told["streams"], figures["spec"], figures["backend"]) == (12, "unmix_tns", "torch")
    assert figures["apart"] <= 1e-4
    assert min(figures["eager"], figures["alone"], figures["served"]) > 0
    assert told["machine"]["torch"]
