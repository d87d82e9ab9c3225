"""The benchmark of the detectors: what it counts, what passes, and that the statements hold on short streams."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from typer.testing import CliRunner

from adapters.options import Options
from benchmarks import detection
from benchmarks.detection import SHIFTS, SUBJECTS, Figures, Subject, as_table, hear, normal, summary


@dataclass(frozen=True)
class Told:
    changed: torch.Tensor


def every(count):
    """A detector that tells a change at each so many values."""
    return Subject(lambda: 0, lambda state, _: (state + 1, Told(torch.tensor((state + 1) % count == 0))), Options(),
                   lambda _: 0.0, 1)  # fmt: skip


def figures(alarms=(0,), delays=(10.0, 12.0), name="adwin", values=32_000):
    return Figures(name, values, alarms, {shift: list(delays) for shift in SHIFTS}, [9], 50.0)


def test_alarms_before_the_shift_are_false_and_the_first_after_it_is_its_delay():
    assert hear(every(10), torch.zeros(100), before=35) == (3, 5)
    assert hear(every(10), torch.zeros(100), before=30) == (3, 10)
    assert hear(every(70), torch.zeros(100), before=80) == (1, None)


def test_shifts_that_are_not_found_count_as_such():
    assert summary([3, None, 5, 40]) == (5, 0.75)
    assert summary([None, None]) == (None, 0)


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        pytest.param(figures(), True, id="quiet and fast"),
        pytest.param(figures(alarms=(2, 1)), True, id="within what is stated"),
        pytest.param(figures(alarms=(9, 0)), False, id="more alarms than two standard errors above"),
        pytest.param(figures(delays=(101.0, 102.0)), False, id="too slow"),
        pytest.param(figures(delays=(10.0, None)), False, id="not always found"),
        pytest.param(figures(delays=(None, None)), False, id="never found"),
        pytest.param(figures(alarms=(1,), name="betting"), False, id="a promise of one in a hundred"),
    ],
)
def test_a_detector_passes_within_both_statements(found, passes):
    assert found.passes == passes


def test_what_is_stated_of_alarms_is_what_the_options_promise():
    stated = {name: subject.stated(100_000) for name, subject in SUBJECTS.items()}

    assert stated["adwin"] == pytest.approx(0.002 * 3125)
    assert stated["betting"] == pytest.approx(0.01, abs=2e-4)
    assert stated["betting, restarts"] == pytest.approx(0.1)


def test_the_mean_of_a_stream_moves_by_the_shift():
    values = normal(0, 5000, 2.0)

    assert float(values[:5000].mean()) == pytest.approx(0, abs=3 / math.sqrt(5000))
    assert float(values[5000:].mean()) == pytest.approx(2, abs=3 / math.sqrt(1000))


def test_a_table_shows_what_was_not_found():
    table = as_table([figures(), figures(delays=(None, None))])

    assert list(table.columns[4].cells) == ["11 (100%)", "— (0%)"]
    assert list(table.columns[-1].cells) == ["passes", "fails"]


@pytest.fixture
def app():
    made = detection.typer.Typer()
    made.command()(detection.main)
    return made


def test_the_command_measures_every_detector_and_the_statements_hold(app, tmp_path):
    written = tmp_path / "figures.json"

    result = CliRunner().invoke(app, ["--values", "1000", "--runs", "2", "--seeds", "1", "--json", str(written)])

    assert result.exit_code == 0, result.output
    assert "false alarms" in result.output
    found = json.loads(written.read_text())
    assert [each["name"] for each in found] == list(SUBJECTS)
    assert all(each["passes"] for each in found)
    assert all(len(each["delays"]["1.0"]) == 2 for each in found)
    assert all(0 < each["microseconds"] < 1000 for each in found)


def test_a_detector_that_is_not_there_is_refused_by_the_names_that_are(app):
    result = CliRunner().invoke(app, ["--detector", "adwine"], env={"COLUMNS": "200"})

    assert result.exit_code == 2
    assert "adwine" in result.output
    assert "page_hinkley" in result.output
