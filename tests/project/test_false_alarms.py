"""The benchmark of false alarms: what streams it makes, what counts as an alarm and as harm, and what it shows."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import false_alarms
from benchmarks.alarm_streams import LEAST_IMAGES, LEAST_RUN, STREAMS, made
from benchmarks.false_alarms import HARMFUL, Moment, alarms_of, as_table, counted, harms_of
from tests.resnet20_data import write_data

WINDOW = 16
REQUESTS, BATCH = 60, 16


def moments(*spans):
    """Return moments: of each span so many requests with so many wrong answers of the stream, and a cause or none."""
    return [Moment(wrong, 1, cause, acted=False, looked=True) for count, wrong, cause in spans for _ in range(count)]


@pytest.fixture(scope="module")
def demo():
    return false_alarms.embedded()


@pytest.fixture(scope="module")
def sent(demo):
    model, domains = demo
    return {kind: made(model, domains, kind, REQUESTS, BATCH, seed=0) for kind in STREAMS}


def test_an_alarm_is_the_first_suspicion_in_a_window_and_false_where_the_stream_erred_no_more():
    seen = moments((20, 1, ""), (2, 1, "agreement"), (5, 1, ""), (1, 4, "agreement"), (20, 4, ""), (1, 4, "accuracy"))

    found = alarms_of(seen, WINDOW)

    assert [(each.request, each.cause, each.excess, each.false) for each in found] == [
        (20, "agreement", 0, True),
        (48, "accuracy", 16 * 3, False),
    ]


def test_a_suspicion_that_lasts_is_one_alarm_and_one_at_the_first_request_counts():
    assert [each.request for each in alarms_of(moments((50, 1, "agreement")), WINDOW)] == [0]
    assert alarms_of(moments((50, 1, "")), WINDOW) == ()


def test_harm_that_lasts_for_a_window_is_found_by_a_suspicion_in_it_or_missed():
    quiet, found = moments((30, 1, ""), (40, 4, ""), (30, 1, "")), moments((30, 1, ""), (20, 4, ""), (20, 4, "harm"))

    (missed,), (seen,) = harms_of(quiet, 4, WINDOW), harms_of(found, 4, WINDOW)

    needed = next(n for n in range(1, WINDOW) if 3 * n / (4 * WINDOW) >= HARMFUL)
    assert (missed.shown, missed.first) == (30 + needed - 1, 30 + needed - WINDOW)
    assert (missed.last, missed.found) == (70 + WINDOW - needed - 1, None)
    assert seen.found == 50


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(moments((100, 1, "")), id="no worse"),
        pytest.param(moments((40, 1, ""), (5, 4, ""), (40, 1, "")), id="shorter than a window"),
        pytest.param(moments((10, 4, "")), id="a stream shorter than a window"),
    ],
)
def test_no_harm_is(seen):
    assert harms_of(seen, 4, WINDOW) == ()


def test_harm_that_comes_again_within_a_window_is_one():
    seen = moments((30, 1, ""), (30, 4, ""), (20, 1, ""), (30, 4, ""))

    assert len(harms_of(seen, 4, WINDOW)) == 1


def test_streams_hold_what_their_names_say(demo, sent):
    _, domains = demo
    for kind, each in sent.items():
        assert each.x.shape == (REQUESTS, BATCH, 1, 28, 28), kind
        assert each.labels.shape == each.frozen_wrong.shape == (REQUESTS, BATCH)
    in_order, mixed = sent["in order"], sent["mixed"]
    assert sorted(in_order.labels.flatten().tolist()) == sorted(mixed.labels.flatten().tolist())
    clean, last = (in_order.frozen_wrong[part].float().mean() for part in (slice(0, 4), slice(8, 60)))
    assert clean < 0.15 < last
    shares = [float(part.float().mean()) for part in mixed.frozen_wrong.chunk(3)]
    assert max(shares) - min(shares) < 0.15
    assert len(domains) == 14


def test_a_sorted_stream_shows_its_classes_one_after_the_other(sent):
    labels = sent["sorted"].labels.flatten().numpy()

    runs = np.diff(np.flatnonzero(np.diff(labels, prepend=-1, append=-1)))
    assert (np.diff(labels) >= 0).all()
    assert runs.min() >= LEAST_IMAGES
    assert runs.mean() >= LEAST_RUN * BATCH


def test_a_stuck_camera_shows_one_image_that_the_frozen_model_is_right_on_amid_others(sent):
    stuck = sent["stuck"]
    during = stuck.x[12:36].flatten(0, 1)

    assert bool((during == during[0]).all())
    assert not bool(stuck.frozen_wrong[12:36].any())
    assert len(torch.unique(stuck.x[:12].flatten(0, 1).flatten(1), dim=0)) > 100
    assert len(torch.unique(stuck.x[36:].flatten(0, 1).flatten(1), dim=0)) > 300


def test_the_frozen_model_itself_is_never_harmed_and_moments_count_its_errors(demo, sent):
    model, _ = demo

    seen = false_alarms.serve(model, "source", sent["in order"], every=20, probe_every=50)

    result = counted("embedded", "in order", "source", BATCH, seen)
    assert (
        result.error == result.frozen_error == pytest.approx(100 * float(sent["in order"].frozen_wrong.float().mean()))
    )
    assert (result.harms, result.roll_backs) == ((), 0)
    assert all(each.wrong == each.frozen for each in seen)


def test_a_stuck_camera_is_found_and_told_in_the_table(demo):
    model, domains = demo
    stuck = made(model, domains, "stuck", 300, 1, seed=0)

    result = counted("embedded", "stuck", "ema", 1, false_alarms.serve(model, "ema", stuck, every=20, probe_every=0))

    assert result.roll_backs >= 1
    assert any(not alarm.false for alarm in result.alarms)
    assert result.error > result.frozen_error
    table = as_table([result])
    told = f"{sum(each.false for each in result.alarms)}/{len(result.alarms)}"
    assert str(next(iter(table.columns[-1].cells))).startswith(told)


def test_a_table_tells_false_alarms_and_missed_harm():
    missed = moments((10, 1, "accuracy"), (40, 1, ""), (50, 4, ""))
    late = moments((40, 1, ""), (30, 4, ""), (30, 4, "contradiction"))

    table = as_table(
        [
            counted("made", "stuck", spec, 4, seen)
            for spec, seen in {"ema": missed, "batch": late, "alpha": missed}.items()
        ]
    )

    cells = [list(column.cells) for column in table.columns[2:]]
    assert cells == [["4"], ["100"], ["1/1, 0/1"], ["0/1, 1/1 (41)"], ["1/1, 0/1"]]
    assert "300 requests, 300 looks; 2 false of 3 alarms; 1 of 3 harms found, 41 requests late" in str(table.caption)


@pytest.fixture
def app():
    made_app = false_alarms.typer.Typer()
    made_app.command()(false_alarms.main)
    return made_app


def test_the_command_serves_a_folder_and_writes_every_alarm(app, tmp_path):
    folder, written = tmp_path / "data", tmp_path / "figures.json"
    folder.mkdir()
    write_data(folder, "fog", 24, 64)
    np.save(folder / "clean.npy", np.load(folder / "fog.npy"))
    np.save(folder / "labels.npy", np.arange(24) % 10)
    threads = torch.get_num_threads()

    result = CliRunner().invoke(
        app,
        [
            "--data",
            str(folder),
            "--no-demo",
            "--spec",
            "ema",
            "--batch",
            "4",
            "--requests",
            "20",
            "--json",
            str(written),
        ],
        env={"COLUMNS": "200"},
    )  # fmt: skip
    torch.set_num_threads(threads)

    assert result.exit_code == 0, result.output
    found = json.loads(written.read_text())
    assert [each["stream"] for each in found] == list(STREAMS)
    assert {(each["data"], each["spec"], each["batch"], each["requests"]) for each in found} == {
        ("cifar10c", "ema", 4, 20)
    }
    assert all(0 < each["looks"] <= 20 for each in found)
    assert "80 requests" in result.output


def test_a_stream_that_is_not_there_is_refused_by_the_names_that_are(app):
    result = CliRunner().invoke(app, ["--stream", "orderly"], env={"COLUMNS": "200"})

    assert result.exit_code == 2
    assert "orderly" in result.output
    assert "in order" in result.output
