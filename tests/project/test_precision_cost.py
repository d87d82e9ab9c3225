"""The benchmark of bfloat16: what it measures and shows."""

import json

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from benchmarks import precision
from tests.resnet20_data import write_data


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not compute in bfloat16"
)
def test_the_command_measures_time_and_error_in_both_precisions(tmp_path):
    write_data(tmp_path, "gaussian_noise", 20)
    np.save(tmp_path / "labels.npy", np.arange(20) % 10)
    app, written = Typer(), tmp_path / "halved.json"
    app.command()(precision.main)
    threads = torch.get_num_threads()

    result = CliRunner().invoke(
        app,
        ["--data", str(tmp_path), "--specs", "batch+tent", "--images", "20", "--batch", "10", "--json", str(written)],
    )
    torch.set_num_threads(threads)

    assert result.exit_code == 0, result.output
    (found,) = json.loads(written.read_text())["halved"]
    assert found["spec"] == "batch+tent"
    assert min(found["milliseconds"], found["half_milliseconds"]) > 0
    assert 0 <= found["equal"] <= 100
    assert abs(found["error"] - found["half_error"]) <= 100 - found["equal"]
