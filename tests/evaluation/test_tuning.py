"""Tuning: what is tried, on what it is chosen, and on what it is reported."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from adapters.errors import AdapterError
from service.cli.main import app
from service.errors import UnfitError
from service.offline.evaluation.comparison import Cell
from service.offline.evaluation.data import Domains, in_memory
from service.offline.evaluation.pipelines import read_pipeline
from service.offline.evaluation.protocols import PlanSettings, make_plan
from service.offline.evaluation.tuning import choose, grid, split
from tests.bundles import FACTORY, torch_bundle
from tests.evaluation.made import made_images
from tests.models import reference_source

NAMES = ("a", "b", "c", "d", "e", "f")
DOMAINS = Domains(dict.fromkeys(NAMES, in_memory(made_images(1, 0), np.zeros(1, np.int64))))
SLOW, FAST = "ema,ema.momentum=0.0", "ema,ema.momentum=1.0"


def answers(text, images):
    """Label images by what a pipeline answers along a stream of them in batches of 8."""
    adapter = read_pipeline(text)
    prepared = adapter.prepare(reference_source())
    state, labels = adapter.init(prepared), []
    for x in torch.split(torch.from_numpy(images).float() / 255, 8):
        output, state = adapter.step(prepared, state, x)
        labels.append(output.probabilities.argmax(1))
    return torch.cat(labels).numpy()


@pytest.fixture(scope="module")
def disagreeing(tmp_path_factory):
    """Two domains: in `slow` the answers of momentum 0 are right, in `fast` those of momentum 1."""
    bright = {"slow": made_images(40, 0) // 2 + 128, "fast": made_images(40, 1) // 2 + 128}
    labels = [answers(SLOW, bright["slow"]), answers(FAST, bright["fast"])]
    file = tmp_path_factory.mktemp("data") / "d.npz"
    images, names = np.concatenate(list(bright.values())), np.repeat(["slow", "fast"], 40)
    np.savez(file, images=images, labels=np.concatenate(labels), domains=names)
    return file


def tuned(tmp_path, data, choose_on, report_on):
    bundle = torch_bundle(tmp_path / "bundle")
    file = tmp_path / "figures.json"
    arguments = ["tune", "ema", "--vary", "ema.momentum=0.0,1.0", "--bundle", str(bundle), "--allow-factory", FACTORY]
    arguments += ["--data", str(data), "--choose", choose_on, "--report", report_on, "--keep-order", "--batch", "8"]
    answer = CliRunner().invoke(app, [*arguments, "--jobs", "1", "--json", str(file)])
    assert answer.exit_code == 0, answer.output + str(answer.exception)
    return answer.output, json.loads(file.read_text())


@pytest.mark.parametrize(("choose_on", "report_on", "best"), [("slow", "fast", SLOW), ("fast", "slow", FAST)])
def test_options_are_chosen_by_the_choosing_domains_though_the_others_disagree(
    tmp_path, disagreeing, choose_on, report_on, best
):
    said, figures = tuned(tmp_path, disagreeing, choose_on, report_on)

    grid_rows, reported = figures["results"][:3], figures["results"][3:]
    errors = {row["spec"]: row["error"] for row in grid_rows}
    assert errors[best] == 0
    assert min(error for spec, error in errors.items() if spec != best) > 0
    assert [row["spec"] for row in reported] == [best, "ema", "source"]
    assert reported[0]["error"] > 10, "on the reporting domain the other end of the grid would have been right"
    assert list(reported[0]["runs"][0]["errors"]) == [report_on]
    assert figures["chosen"] == best
    assert said.rstrip().endswith(f"use: {best}")


def test_a_domain_on_both_sides_is_refused():
    with pytest.raises(UnfitError, match="b is among the domains to choose on and to report on"):
        split(DOMAINS, ["a", "b"], ["b", "c"])


@pytest.mark.parametrize(
    ("choosing", "reporting", "expected"),
    [
        pytest.param((), (), ("ab", "cdef"), id="first third and rest"),
        pytest.param(("e",), (), ("e", "abcdf"), id="named to choose on"),
        pytest.param((), ("a", "b"), ("cd", "ab"), id="named to report on"),
        pytest.param(("f",), ("a",), ("f", "a"), id="both named"),
    ],
)
def test_without_names_the_first_third_chooses_and_the_rest_is_reported_on(choosing, reporting, expected):
    parts = split(DOMAINS, choosing, reporting)

    assert ("".join(parts.choose.names), "".join(parts.report.names)) == expected


def test_one_domain_is_too_few():
    with pytest.raises(UnfitError, match="needs one to choose and one to report on"):
        split(DOMAINS.select(["a"]), (), ())


def test_the_grid_is_every_combination_and_the_spec_as_it_is():
    assert grid("batch+eta,eta.lr=0.1", ["eta.lr=1e-4,1e-3", "eta.d_margin=0.05,0.4"]) == (
        "batch+eta,eta.lr=0.1",
        "batch+eta,eta.lr=1e-4,eta.d_margin=0.05",
        "batch+eta,eta.lr=1e-4,eta.d_margin=0.4",
        "batch+eta,eta.lr=1e-3,eta.d_margin=0.05",
        "batch+eta,eta.lr=1e-3,eta.d_margin=0.4",
    )


@pytest.mark.parametrize(
    ("text", "vary"),
    [
        ("ema", "ema.momentum="),
        ("ema", "ema.momentum"),
        ("ema", "ema.pace=1"),
        ("ema", "ema.momentum=2"),
        ("ema", "tent.lr=1"),
        ("ema,momentum", "ema.momentum=1"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_anything_runs(text, vary):
    with pytest.raises(AdapterError):
        grid(text, [vary])


def test_a_grid_of_thousands_is_refused():
    values = ",".join(str(number / 1000) for number in range(501))

    with pytest.raises(AdapterError, match="501 combinations; at most 500"):
        grid("ema", [f"ema.momentum={values}"])


def test_where_nothing_could_be_run_the_reason_is_given():
    with pytest.raises(UnfitError, match="no batch norm here"):
        choose([Cell("batch", "continual", 8, (), 50.0, "no batch norm here")])


def test_the_plan_of_a_part_is_over_its_domains_alone():
    parts = split(DOMAINS, (), ())

    assert len(make_plan("continual", parts.choose, PlanSettings(), 0).items) == 2
