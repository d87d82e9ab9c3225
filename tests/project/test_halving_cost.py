"""The benchmark of states kept in half precision: what it measures and shows."""

import json

import numpy as np
import torch
from typer import Typer
from typer.testing import CliRunner

from benchmarks import halving
from tests.resnet20_data import write_data


def test_the_command_measures_bytes_and_errors_of_states_whole_and_halved(tmp_path):
    write_data(tmp_path, "gaussian_noise", 20)
    np.save(tmp_path / "labels.npy", np.arange(20) % 10)
    app, written = Typer(), tmp_path / "rested.json"
    app.command()(halving.main)
    threads = torch.get_num_threads()

    result = CliRunner().invoke(
        app, ["--data", str(tmp_path), "--specs", "unmix_tns", "--images", "20", "--batch", "5", "--json", str(written)]
    )
    torch.set_num_threads(threads)

    assert result.exit_code == 0, result.output
    (found,) = json.loads(written.read_text())["rested"]
    assert found["spec"] == "unmix_tns"
    assert found["size"] / 2 <= found["half_size"] < found["size"]
    assert abs(found["error"] - found["half_error"]) <= 100 - found["equal"] <= 100
