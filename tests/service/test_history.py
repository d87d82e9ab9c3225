"""A stream's series: bounded, of the right sums and means, and never told twice."""

import math

import numpy as np
import pytest
import torch

from adapters.monitors.layer_distance import LayerDistance
from service.history import COLUMNS, LAYER_ROWS, RECENT, SPARKS, History, Misfit


def column(points, name):
    return [point[COLUMNS.index(name)] for point in points]


def filled(requests, **signals):
    """A history of requests of 1, 2, 3, 1, 2, ... images, whose signals are functions of the number."""
    history = History()
    for number in range(requests):
        told = {name: function(number) for name, function in signals.items()}
        history.add(1000.0 + number, number, 1 + number % 3, told)
    return history


@pytest.mark.parametrize("requests", [0, 1, RECENT, RECENT + 1, 2 * RECENT, 2 * RECENT + 1, 1000, 10_000])
def test_however_many_requests_came_the_points_are_few_and_sum_to_them(requests):
    history = filled(requests)

    points = history.since(0)

    assert len(points) <= 2 * RECENT
    assert sum(column(points, "requests")) == requests
    assert sum(column(points, "images")) == sum(1 + number % 3 for number in range(requests))
    assert history.cursor == requests


def test_points_are_in_order_and_the_newest_stand_for_one_request_each():
    points = filled(10_000).since(0)

    for name in ("cursor", "time", "generation"):
        assert column(points, name) == sorted(set(column(points, name)))
    assert column(points, "cursor")[-RECENT:] == list(range(10_000 - RECENT + 1, 10_001))
    assert column(points, "requests")[-RECENT:] == [1.0] * RECENT
    assert column(points, "requests")[0] >= 64


def test_a_merged_point_has_the_mean_of_its_requests_and_the_latest_stamps():
    points = filled(10_000, entropy=float).since(0)

    first = 0
    for point in points:
        requests, entropy = (int(point[COLUMNS.index("requests")]), point[COLUMNS.index("entropy")])
        assert entropy == pytest.approx(first + (requests - 1) / 2)
        first += requests
        assert point[COLUMNS.index("cursor")] == first
        assert point[COLUMNS.index("time")] == 1000.0 + first - 1


def test_what_is_not_known_is_null_and_no_part_of_a_mean():
    history = filled(1000, drift=lambda number: 2.0 if number % 2 else math.nan, agreement=lambda _: math.inf)

    points = history.since(0)

    merged = [point for point in points if point[COLUMNS.index("requests")] > 1]
    assert len(merged) > 50
    assert set(column(merged, "drift")) == {2.0}
    assert set(column(points[-RECENT:], "drift")) == {2.0, None}
    assert set(column(points, "agreement")) == {None}
    assert set(column(points, "source_gap")) == {None}


@pytest.mark.parametrize("cursor", [0, 1, 57, 400, 880, 999, 1000])
def test_since_a_cursor_only_newer_points_are_told(cursor):
    history = filled(1000)

    points = history.since(cursor)

    assert all(number > cursor for number in column(points, "cursor"))
    if cursor >= 1000 - RECENT:
        assert sum(column(points, "requests")) == 1000 - cursor


def test_who_follows_closely_hears_of_every_request_once():
    history, heard, cursor = History(), [], 0
    for number in range(2000):
        history.add(float(number), 0, 1, {})
        if number % 7 == 0:
            heard += column(history.since(cursor), "cursor")
            cursor = history.cursor

    assert heard == list(range(1, cursor + 1))


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
