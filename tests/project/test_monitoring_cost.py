"""The benchmark of what watching costs: what it measures and shows."""

import json

import torch
from typer.testing import CliRunner

from benchmarks import monitoring
from benchmarks.monitoring import Cost, as_table
from tests.resnet20_data import write_data


def test_a_cost_above_five_per_cent_of_a_step_is_told():
    table = as_table([Cost("ema", 40.0, 42.0, 5.0), Cost("source", 40.0, 42.1, 5.25)])

    assert list(table.columns[4].cells) == ["passes", "above 5 %"]


def test_the_command_measures_specs_with_a_calibrated_model(tmp_path):
    write_data(tmp_path, "brightness", 8, 16)
    app, written = monitoring.typer.Typer(), tmp_path / "costs.json"
    app.command()(monitoring.main)
    threads = torch.get_num_threads()

    result = CliRunner().invoke(
        app,
        ["--data", str(tmp_path), "--spec", "ema", "--images", "12", "--batch", "4", "--repetitions", "1",
         "--threads", "1", "--json", str(written)],
    )  # fmt: skip
    torch.set_num_threads(threads)

    assert result.exit_code == 0, result.output
    (cost,) = json.loads(written.read_text())
    assert cost["spec"] == "ema"
    assert cost["served"] > cost["step"] * 0.5
    model = monitoring.hosted(tmp_path / "resnet20.safetensors", monitoring.artefacts_of(tmp_path))
    assert model.reference.calibration is not None
    assert len(model.reference.entropies) == 1001
