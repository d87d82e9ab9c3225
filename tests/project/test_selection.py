"""The benchmark of `auto`: what it sets beside each other, and what passes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from benchmarks import selection
from benchmarks.resnet20 import ResNet20
from benchmarks.selection import REPORTING, TUNING, Row, as_long_table, rows
from service.offline.evaluation.comparison import Cell
from service.offline.evaluation.runs import Run


def cell(pipeline, errors, batch=64, source=50.0):
    runs = tuple(Run(seed, error, {}, (), (), 1.0, {}) for seed, error in enumerate(errors))
    return Cell(pipeline, "continual", batch, runs, source)


def write_weights(folder):
    torch.manual_seed(0)
    weights = {name: value for name, value in ResNet20().state_dict().items() if "num_batches" not in name}
    save_file(weights, folder / "resnet20.safetensors")


def test_auto_stands_beside_the_best_single_spec_of_its_own_protocol_and_batch():
    cells = [cell("source", [50]), cell("batch+eta,eta.lr=1", [40]), cell("auto", [41]), cell("batch", [10], batch=1)]

    (row,) = rows(cells)

    assert (row.best, row.best_spec, row.auto, row.source) == (40, "batch+eta", 41, 50)


@pytest.mark.parametrize(
    ("auto", "standard_error", "passes"),
    [(41.0, 0.0, True), (42.1, 0.0, False), (51.5, 0.0, False), (51.5, 1.0, True), (53.0, 1.0, False)],
)
def test_a_row_passes_within_both_bounds(auto, standard_error, passes):
    best = 40.0 if auto < 50 else 50.0

    assert Row("mixed", 64, 50.0, auto, standard_error, best, "batch").passes == passes


def test_a_spec_wears_out_if_its_last_repetition_is_more_than_a_point_worse():
    def long(pipeline, repetitions):
        run = Run(0, 40.0, {}, repetitions, (), 1.0, {})
        return Cell(pipeline, "long", 64, (run,), 50.0)

    table = as_long_table([long("a", (40.0, 60.0, 40.9)), long("b", (40.0, 39.0, 41.1)), cell("c", [40.0])])

    assert list(table.columns[0].cells) == ["a", "b"]
    assert list(table.columns[5].cells) == ["holds out", "wears out"]


def test_the_rules_were_chosen_on_other_corruptions_than_are_reported():
    assert len(TUNING) == 5
    assert len(REPORTING) == 10
    assert not set(TUNING) & set(REPORTING)


def test_the_command_runs_auto_over_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("clean", *TUNING[:2]):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(12) % 10)
    write_weights(tmp_path)
    app = selection.typer.Typer()
    app.command()(selection.main)
    chosen = ["--spec", "source", "--spec", "batch", "--domain", TUNING[0], "--domain", TUNING[1]]
    written = tmp_path / "cells.json"

    result = CliRunner().invoke(
        app,
        ["--data", str(tmp_path), *chosen, "--images", "12", "--batch", "4", "--protocol", "continual",
         "--jobs", "1", "--json", str(written)],
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "best single" in result.output
    assert {figure["spec"] for figure in json.loads(written.read_text())} == {"source", "batch", "auto"}


def test_source_artefacts_are_made_once_and_kept(tmp_path):
    write_weights(tmp_path)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "source_images.npy", rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "source_labels.npy", np.arange(16) % 10)
    kept = tmp_path / "artefacts.safetensors"

    made = selection.made_artefacts(tmp_path, ["batch+eata", "batch+rmt", "rotta_bn+rmt"], kept)
    (tmp_path / "source_images.npy").unlink()
    again = selection.made_artefacts(tmp_path, ["batch+eata", "batch+rmt", "rotta_bn+rmt"], kept)

    assert {name.partition(".")[0] for name in made} >= {"rmt@batch@64", "rmt@rotta_bn@64"}
    assert set(again) == set(made)
    assert all(torch.equal(again[name], tensor) for name, tensor in made.items())
    assert selection.load(tmp_path, made).artefacts is made
