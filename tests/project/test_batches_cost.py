"""The benchmark of batch sizes: what it measures and shows."""

import json

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from benchmarks import batches
from benchmarks.batches import as_tables
from benchmarks.cost import COMPILED, EAGER, Cost
from tests.resnet20_data import write_data


@pytest.fixture
def run(tmp_path):
    """Calls the command on a folder of eight random images and an untrained network's weights."""
    write_data(tmp_path, "gaussian_noise", 8, 16)
    app, written = Typer(), tmp_path / "costs.json"
    app.command()(batches.main)
    threads = torch.get_num_threads()

    def run(*arguments):
        result = CliRunner().invoke(app, ["--data", str(tmp_path), "--threads", "1", "--repetitions", "1",
                                          "--json", str(written), *arguments])  # fmt: skip
        return result, json.loads(written.read_text()) if written.exists() else None

    yield run
    torch.set_num_threads(threads)


def test_an_image_costs_its_share_of_the_step_and_what_has_no_graph_is_left_out():
    costs = {
        2: [Cost("batch", EAGER, 10.0, 1.25, None, {})],
        4: [Cost("batch", EAGER, 12.0, 1.2, None, {}), Cost("batch", COMPILED, 8.0, 0.8, None, {})],
    }

    times, ratios = as_tables(costs, {"cores": "2"})

    assert [column.header for column in times.columns] == ["spec", "backend", "2", "4"]
    assert [list(column.cells) for column in times.columns[1:]] == [[EAGER, COMPILED], ["5.00", "-"], ["3.00", "2.00"]]
    assert [list(column.cells) for column in ratios.columns[2:]] == [["1.25", "-"], ["1.20", "0.80"]]


def test_of_learners_that_choose_images_it_is_told_how_many_they_learned_from():
    costs = {size: [Cost("batch+eata", EAGER, 10.0, 1.0, share, {})] for size, share in ((1, 0.0), (4, 0.25))}

    _, ratios = as_tables(costs, {"cores": "2"})

    assert ratios.caption.splitlines() == ["batch+eata, eager, learned from 0, 25 % of the images", "cores 2"]


@pytest.mark.slow
def test_the_command_measures_every_spec_at_every_size_beside_a_forward_pass_of_that_size(run):
    result, told = run("--specs", "batch", "--specs", "source+eta", "--size", "4", "--size", "1")

    assert result.exit_code == 0, result.output
    found = [(cost["images"], cost["spec"], cost["backend"]) for cost in told["costs"]]
    alike = [("frozen forward", EAGER), ("batch", EAGER), ("batch", COMPILED), ("source+eta", EAGER)]
    assert set(found) >= {(size, *name) for size in (1, 4) for name in alike}
    assert len(found) == len(set(found))
    assert [cost["images"] for cost in told["costs"]] == sorted(cost["images"] for cost in told["costs"])
    assert [cost["ratio"] for cost in told["costs"] if cost["spec"] == "frozen forward"] == [1, 1]
    assert min(cost["milliseconds"] for cost in told["costs"]) > 0
    assert told["torch"] == torch.__version__


def test_the_command_refuses_sizes_that_it_has_too_few_images_for(run):
    result, told = run("--specs", "batch", "--size", "16")

    assert result.exit_code == 2
    assert "there are 8 images" in result.output
    assert told is None
