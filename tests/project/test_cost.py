"""The benchmark of what steps cost: what it measures and shows."""

import json

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from benchmarks import cost
from benchmarks.cost import COMPILED, EAGER, Cost, Subject, as_table, measure
from tests.resnet20_data import write_data


@pytest.fixture
def data(tmp_path):
    """A folder of random images and an untrained network's weights."""
    return write_data(tmp_path, "gaussian_noise", 20, 32)


def test_a_ratio_above_what_is_asked_is_told():
    costs = [Cost("ema", COMPILED, 40.0, ratio, None, {}) for ratio in (2.0, 2.01)]
    costs.append(Cost("source", EAGER, 40.0, 9.0, None, {}))

    assert list(as_table(costs, {}).columns[5].cells) == ["passes", "above 2", "-"]


def test_rounds_follow_each_other_turn_by_turn():
    order = []
    subjects = [Subject(name, EAGER, None, {}, lambda name=name: order.append(name)) for name in ("frozen", "a", "b")]

    costs = measure(subjects, 2, lambda: None)

    assert order == ["frozen", "a", "b"] * 2
    assert costs[0].ratio == 1


def test_the_command_makes_learners_select_the_share_asked_for_and_says_how(data):
    app, written = Typer(), data / "costs.json"
    app.command()(cost.main)
    threads = torch.get_num_threads()

    result = CliRunner().invoke(
        app,
        ["--data", str(data), "--specs", "unmix_tns+eata", "--specs", "batch", "--batch", "20", "--share", "0.3",
         "--eager", "unmix_tns+eata", "--repetitions", "1", "--threads", "1", "--json", str(written)],
    )  # fmt: skip
    torch.set_num_threads(threads)

    assert result.exit_code == 0, result.output
    kept = json.loads(written.read_text())
    assert kept["torch"] == torch.__version__
    frozen, eata, batch, _ = kept["costs"]
    assert [cost["backend"] for cost in kept["costs"]] == [EAGER, EAGER, EAGER, COMPILED]
    assert frozen["ratio"] == 1
    assert eata["selected"] == pytest.approx(0.3, abs=0.051)
    assert set(eata["options"]) == {"eata.e_margin", "eata.d_margin"}
    assert batch["selected"] is None
