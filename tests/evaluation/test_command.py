"""The command `acclimate compare`: its table, its files, its pictures and its refusals."""

import csv
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli.main import app
from service.errors import ServiceError
from service.offline.evaluation.comparison import Cell
from service.offline.evaluation.report import as_csv, as_json, notes
from service.offline.evaluation.runs import Range, Run
from tests.bundles import FACTORY, torch_bundle
from tests.evaluation.made import made_domains, made_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle beside an .npz of three domains, 24 images each."""
    folder = tmp_path_factory.mktemp("compare")
    torch_bundle(folder / "bundle")
    domains = made_domains()
    images = np.concatenate([made_images(24, number) for number in range(3)])
    labels = np.concatenate([domain.labels for domain in domains])
    np.savez(folder / "d.npz", images=images, labels=labels, domains=np.repeat(domains.names, 24))
    return folder


def invoke(folder, *arguments):
    model = ["--bundle", str(folder / "bundle"), "--allow-factory", FACTORY, "--data", str(folder / "d.npz")]
    return CliRunner().invoke(app, ["compare", *model, "--jobs", "1", *arguments])


def test_a_comparison_is_shown_and_written_as_json_and_csv(folder, tmp_path):
    files = [tmp_path / "c.json", tmp_path / "c.csv"]
    protocols = ["--protocol", "continual", "--protocol", "gradual", "--protocol", "long", "--repetitions", "2"]

    answer = invoke(
        folder, "source", "batch+tent,tent.lr=1e-2", "unmix_tns", *protocols, "--batch", "8", "--batch", "24",
        "--seeds", "2", "--json", str(files[0]), "--csv", str(files[1]), "--by-domain",
    )  # fmt: skip

    assert answer.exit_code == 0, answer.output + str(answer.exception)
    figures = json.loads(files[0].read_text())
    assert figures["domains"] == {"clean": 24, "fog": 24, "snow": 24}
    assert len(figures["results"]) == 3 * 3 * 2
    assert [len(row["runs"]) for row in figures["results"]] == [1] * 12 + [2] * 6
    lines = list(csv.DictReader(files[1].read_text().splitlines()))
    # Each run has a line for all images together and one per domain.
    assert len(lines) == (12 + 6 * 2) * 4
    first = figures["results"][0]
    assert float(lines[0]["error"]) == first["error"] == first["source_error"]
    assert f"{first['error']:.1f}" in answer.output
    assert "±" in answer.output
    assert "Error in % by domain: gradual, batch 24" in answer.output


def test_pictures_are_drawn(folder, tmp_path):
    answer = invoke(folder, "source", "ema", "--batch", "4", "--batch", "24", "--plots", str(tmp_path / "pictures"))

    assert answer.exit_code == 0, answer.output + str(answer.exception)
    drawn = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in drawn] == [
        "error_by_batch.png", "error_by_cost.png", "error_over_time_batch_24.png", "error_over_time_batch_4.png",
    ]  # fmt: skip
    for file in drawn:
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 400
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50, "it is not blank"


def test_pictures_without_matplotlib_are_refused_with_how_to_install_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    answer = invoke(folder, "source", "--plots", str(tmp_path / "pictures"))

    assert "pip install 'acclimate[plots]'" in str(answer.exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tnet"], "no adapter part is named 'tnet'"),
        (["ema,ema.pace=1"], "ema has no option 'pace'"),
        (["--protocol", "random"], "no protocol 'random'; there are: reset"),
        (["--domains", "rain"], "no domain 'rain'"),
        (["--protocol", "mixed", "--order-file", "PATH"], "is for --protocol correlated"),
        (["--order-file", "PATH"], "is no readable .npy"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_would_be_right(folder, tmp_path, arguments, said):
    (tmp_path / "order.npy").write_text("no array")

    answer = invoke(folder, *(str(tmp_path / "order.npy") if word == "PATH" else word for word in arguments))

    assert isinstance(answer.exception, ServiceError)
    assert said in str(answer.exception)


def test_an_order_file_is_the_order_of_correlated(folder, tmp_path):
    order = np.stack([np.random.default_rng(seed).permutation(24) for seed in range(3)])
    np.save(tmp_path / "order.npy", order)

    answer = invoke(folder, "batch", "--protocol", "correlated", "--order-file", str(tmp_path / "order.npy"))

    assert answer.exit_code == 0, answer.output + str(answer.exception)


def test_what_a_spec_does_without_on_this_model_is_told(folder):
    answer = invoke(folder, "batch+eata", "source", "--protocol", "continual")

    assert answer.exit_code == 0, answer.output + str(answer.exception)
    assert "- batch+eata: eata has no Fisher information" in answer.output


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_the_help_gives_examples_and_explains_every_setting(command):
    answer = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})

    assert answer.exit_code == 0
    assert f"acclimate {command} " in answer.output
    for setting in ("--bundle", "--data", "--protocol", "--delta", "--slots", "--batch", "--seeds", "--jobs", "--json"):
        assert setting in answer.output


def test_figures_that_are_not_finite_are_null_in_json_and_refusals_are_kept():
    strayed = Run(0, 90.0, {"fog": 90.0}, (90.0,), (90.0,), 1.0, {"entropy": Range(float("nan"), 0.0, float("inf"))})
    cells = [
        Cell("batch+tent", "continual", 8, (strayed,), 50.0),
        Cell("batch+eata", "continual", 8, (), 50.0, "lacks fisher"),
    ]

    results = json.loads(as_json(cells, {}))["results"]

    assert results[0]["runs"][0]["signals"]["entropy"] == {"least": None, "mean": 0.0, "greatest": None}
    assert results[0]["worse_than_source"]
    assert (results[1]["error"], results[1]["refusal"]) == (None, "lacks fisher")
    assert list(csv.DictReader(as_csv(cells).splitlines()))[-1]["refusal"] == "lacks fisher"
    assert notes(cells) == ["batch+eata: lacks fisher"]
