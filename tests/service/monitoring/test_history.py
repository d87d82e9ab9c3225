"""A stream's series: minutes, hours and days at a resolution of their own, bounded, never told twice, and kept."""

import math
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adapters.monitors.layer_distance import LayerDistance
from service.monitoring.history import COLUMNS, LAYER_ROWS, RECENT, SPARKS, History, Misfit
from service.monitoring.history_format import BEFORE_NAMES
from service.monitoring.history_tiers import MOST, SIGNALS, TIERS, point_of
from service.storage.history_files import Histories

NOON = 1.7e9
"""A time that begins a slot of every tier."""


def column(points, name):
    return [point[COLUMNS.index(name)] for point in points]


def filled(requests, every=1.0, **signals):
    """A history of requests of 1, 2, 3, 1, 2, ... images, whose signals are functions of the number."""
    history = History()
    for number in range(requests):
        told = {name: function(number) for name, function in signals.items()}
        history.add(NOON + every * number, number, 1 + number % 3, told)
    return history


@pytest.mark.parametrize("every", [0.01, 1.0, 7.0, 400.0])
@pytest.mark.parametrize("requests", [0, 1, RECENT, RECENT + 1, 2000])
def test_however_many_requests_came_the_points_are_few_in_order_and_sum_to_them(requests, every):
    history = filled(requests, every)

    points = history.since(0)

    assert len(points) <= MOST + RECENT
    assert sum(column(points, "requests")) == requests
    assert sum(column(points, "images")) == sum(1 + number % 3 for number in range(requests))
    for name in ("cursor", "time"):
        assert column(points, name) == sorted(column(points, name))
    assert history.cursor == requests


@pytest.mark.parametrize(
    ("seconds", "resolution", "points"), [(900, 1, 900), (3600, 10, 360), (21_600, 30, 720), (86_400, 300, 85)]
)
def test_minutes_hours_and_days_have_a_resolution_of_their_own(seconds, resolution, points):
    span = filled(25_200).spanning(seconds)

    assert span.resolution == resolution
    assert points - 1 <= len(span.rows) <= points + 1
    assert min(seconds, 25_200) - resolution <= sum(column(span.rows, "requests")) <= min(seconds, 25_200)


def test_one_request_out_of_many_shows_at_every_resolution():
    history = filled(7200, entropy=lambda number: 5.0 if number == 7000 else 0.1)

    for tier in (900, 3600, 21_600, 86_400, TIERS[-1].span):
        rows = history.spanning(tier).rows
        peaks = [value for name in ("entropy", "entropy_max") for value in column(rows, name) if value is not None]
        lows = [value for value in column(rows, "entropy_min") if value is not None]
        assert max(peaks) == 5.0
        assert not lows or min(lows) == pytest.approx(0.1, rel=1e-3)


def test_a_point_has_the_mean_of_its_requests():
    rows = filled(6000, entropy=lambda number: number % 100 / 100).spanning(86_400).rows

    assert column(rows, "entropy")[0] == pytest.approx(0.495, rel=1e-3)


def test_fourteen_days_are_kept_and_no_more_in_bounded_bytes():
    noise = np.random.default_rng(0).random((500, len(SIGNALS)))
    history = History()
    for number in range(15 * 288):
        history.add(NOON + 300 * number, number, 1, dict(zip(SIGNALS, noise[number % 500].tolist(), strict=True)))

    span = history.newest - history.oldest

    assert 13.9 * 86_400 < span <= 15 * 86_400
    assert len(history.spanning(TIERS[-1].span).rows) <= MOST + 10
    assert history.nbytes < 400_000


def test_a_stream_that_was_used_once_takes_little():
    assert filled(1).nbytes < 5000


def test_what_is_not_known_is_null_and_no_part_of_a_mean():
    history = filled(1000, drift=lambda number: 2.0 if number % 2 else math.nan, agreement=lambda _: math.inf)

    rows = history.spanning(3600).rows

    assert set(column(rows, "drift")) == {2.0}
    assert set(column(rows, "agreement")) == set(column(rows, "source_gap")) == {None}
    assert set(column(history.since(990), "drift")) == {2.0, None}


@pytest.mark.parametrize("cursor", [0, 1, 57, 880, 999, 1000])
def test_since_a_cursor_only_newer_points_are_told(cursor):
    points = filled(1000).since(cursor)

    assert all(number > cursor for number in column(points, "cursor"))
    told = sum(column(points, "requests"))
    assert 1000 - cursor <= told < 1000 - cursor + 60  # a point that ends after it is told whole
    assert told == 1000 - cursor or cursor < 1000 - RECENT


def test_who_follows_closely_hears_of_every_request_once():
    history, heard, cursor = History(), [], 0
    for number in range(2000):
        history.add(NOON + number / 50, 0, 1, {})
        if number % 7 == 0:
            heard += column(history.since(cursor), "cursor")
            cursor = history.cursor

    assert heard == list(range(1, cursor + 1))


def test_values_beyond_half_precision_are_bounded():
    rows = filled(300, drift=lambda _: 1e9).spanning(3600).rows

    assert set(column(rows, "drift")) == {65504.0}


def test_a_clock_that_is_set_back_keeps_the_order():
    history = filled(10)
    history.add(NOON - 5000, 10, 1, {})

    assert column(history.since(0), "time") == sorted(column(history.since(0), "time"))


def test_a_history_is_kept_and_goes_on_where_it_was(tmp_path):
    stream = SimpleNamespace(id="s", created=NOON, history=filled(5000, entropy=lambda number: number / 5000))
    before = stream.history.spanning(3600).rows
    Histories(tmp_path / "histories").save([stream])

    again = SimpleNamespace(id="s", created=NOON, history=History())
    Histories(tmp_path / "histories").load(again)

    assert again.history.spanning(3600).rows == before
    assert again.history.cursor == 5000
    again.history.add(NOON + 5001, 0, 1, {})
    assert sum(column(again.history.since(0), "requests")) == 5001
    assert column(again.history.since(5000), "cursor") == [5001]


def packed_by_a_version_with(names, named=True):
    """Return a history of two requests as a version with these signals kept it; the n-th signal's value is n."""
    kind = point_of(len(names))
    points = np.zeros(2, kind)
    points["cursor"], points["time"], points["requests"] = [1, 2], [NOON, NOON + 1], 1
    for values in ("mean", "low", "high"):
        points[values] = np.arange(len(names))
    columns = np.frombuffer(points.tobytes(), np.uint8).reshape(-1, kind.itemsize).T.tobytes()
    lengths = (len(columns), 0, 0)
    if not named:
        return zlib.compress(struct.pack("<Q3I", 2, *lengths) + columns)
    text = ",".join(names).encode()
    return zlib.compress(struct.pack("<Q3IQI", 2**64 - 1, *lengths, 2, len(text)) + text + columns)


@pytest.mark.parametrize(
    ("names", "named"),
    [(BEFORE_NAMES, False), (("one_of_another_version", *reversed(SIGNALS[2:])), True), (SIGNALS, True)],
    ids=["before_names", "other_signals", "these"],
)
def test_a_history_of_a_version_with_other_signals_keeps_those_that_both_have(names, named):
    history = History()
    history.unpack(packed_by_a_version_with(names, named))

    assert history.cursor == 2
    for name in SIGNALS:
        expected = float(names.index(name)) if name in names else None
        assert column(history.since(0), name) == [expected, expected], name


def test_a_stream_does_not_get_the_history_of_an_earlier_one_of_its_name_nor_a_damaged_one(tmp_path):
    histories = Histories(tmp_path)
    histories.save([SimpleNamespace(id="s", created=NOON, history=filled(10))])
    later = SimpleNamespace(id="s", created=NOON + 60, history=History())
    histories.load(later)
    same = SimpleNamespace(id="s", created=NOON, history=History())
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])

    histories.load(same)

    assert (later.history.cursor, same.history.cursor) == (0, 0)


def test_the_spark_is_of_the_newest_entropies_that_are_known():
    history = filled(200, entropy=lambda number: math.nan if number == 199 else float(number))

    assert history.sparks() == [float(number) for number in range(200 - SPARKS, 199)]


def test_layers_and_misfits_are_bounded():
    history = History()
    for number in range(200):
        history.add_layers(float(number), [LayerDistance(kl=torch.tensor(2.0), wasserstein=torch.tensor(0.5))])
        history.add_misfit(Misfit(float(number), 0, 1.0, np.zeros((1, 2, 2), np.uint8)), keep=4)

    assert [row.time for row in history.layers] == list(range(200 - LAYER_ROWS, 200))
    assert (history.layers[0].wasserstein.tolist(), history.layers[0].divergence.tolist()) == ([0.5], [2.0])
    assert [misfit.time for misfit in history.misfits] == [196.0, 197.0, 198.0, 199.0]
