"""Monitors: what they find on made streams with known changes, and what they never let in."""

import math

import pytest
import torch

from adapters.base import Moments
from adapters.monitors import label_runs, moving_mean, page_hinkley
from adapters.monitors.norm_distance import distance
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.state import flatten

OPTIONS = PageHinkleyOptions(tolerance=0.1, threshold=5.0, at_least=10)


def run(values, options=OPTIONS):
    """Return the indices where a change is told."""
    state, found = page_hinkley.init(), []
    for index, value in enumerate(values):
        state, verdict = page_hinkley.update(state, torch.tensor(float(value)), options)
        if verdict.changed:
            found.append(index)
    return found


def noise(count, seed=0, scale=0.1):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_rise_and_a_fall_of_the_mean_are_found_within_ten_values(shift):
    found = run(torch.cat([noise(200), noise(200, 1) + shift]))

    assert found
    assert 200 < found[0] < 210


def test_a_stationary_signal_raises_no_alarm():
    assert run(noise(5000)) == []


def test_after_a_change_the_test_begins_anew_and_finds_the_next():
    found = run(torch.cat([noise(100), noise(100, 1) + 1, noise(100, 2)]))

    assert len(found) == 2
    assert found[0] < 110 < 200 < found[1] < 210


def test_page_hinkley_is_the_textbook_recursion():
    values = noise(60, 3, scale=1.0).tolist()
    state, mean, rise, least = page_hinkley.init(), 0.0, 0.0, 0.0
    options = PageHinkleyOptions(tolerance=0.05, threshold=1e9, forgetting=0.99, at_least=1)

    for count, value in enumerate(values, 1):
        state, verdict = page_hinkley.update(state, torch.tensor(value), options)
        mean += (value - mean) / count
        rise = 0.99 * rise + value - mean - 0.05
        least = min(least, rise)

    assert float(state.rise - state.least_rise) == pytest.approx(rise - least, abs=1e-4)
    assert float(verdict.statistic) >= rise - least - 1e-4


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_never_reaches_a_monitor(poison):
    known = page_hinkley.update(page_hinkley.init(), torch.tensor(1.0), OPTIONS)[0]
    mean = moving_mean.update(moving_mean.init(), torch.tensor(1.0), 8)

    after, verdict = page_hinkley.update(known, torch.tensor(poison), OPTIONS)
    assert not verdict.changed
    assert all(torch.equal(value, flatten(known)[name]) for name, value in flatten(after).items())
    poisoned = flatten(moving_mean.update(mean, torch.tensor(poison), 8))
    assert all(torch.equal(value, flatten(mean)[name]) for name, value in poisoned.items())


def test_monitors_vmap_over_streams():
    values = torch.tensor([0.0, 5.0, math.nan])
    states = {name: x.expand(3) for name, x in flatten(page_hinkley.init()).items()}

    def step(tensors, value):
        state, verdict = page_hinkley.update(page_hinkley.PageHinkleyState(**tensors), value, OPTIONS)
        return flatten(state), verdict.changed

    after, _ = torch.vmap(step)(states, values)

    for index, value in enumerate(values):
        alone = flatten(page_hinkley.update(page_hinkley.init(), value, OPTIONS)[0])
        assert all(torch.equal(after[name][index], alone[name]) for name in alone)


def test_the_moving_mean_weighs_by_images_and_forgets():
    state = moving_mean.init()
    for _ in range(400):
        state = moving_mean.update(state, torch.tensor(1.0), 1, memory=64)
    one_by_one = moving_mean.update(state, torch.tensor(2.0), 32, memory=64)

    assert float(state.mean) == pytest.approx(1.0)
    assert float(one_by_one.mean) == pytest.approx(2 - math.exp(-0.5), abs=0.01)


def test_the_distance_is_zero_at_home_and_finite_on_a_constant_channel():
    source = Moments(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))

    assert float(distance(source, source)) == 0
    assert torch.isfinite(distance(Moments(torch.tensor([5.0, 1.0]), torch.zeros(2)), source))


def labels(stay, count=600, classes=10, seed=0):
    """A chain that keeps its label with a probability, else draws one of all classes."""
    generator = torch.Generator().manual_seed(seed)
    chain = [0]
    for _ in range(count - 1):
        stays = float(torch.rand((), generator=generator)) < stay
        chain.append(chain[-1] if stays else int(torch.randint(classes, (), generator=generator)))
    return torch.tensor(chain)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_runs_are_found_whatever_the_batch_and_a_fair_stream_has_none(batch):
    def known(chain):
        state = label_runs.init(10)
        for part in chain.split(batch):
            state = label_runs.update(state, part)
        return state

    fair, correlated = known(labels(0.0)), known(labels(0.8))

    assert abs(float(label_runs.excess(fair))) < 0.07  # three standard errors of 256 pairs
    assert float(label_runs.excess(correlated)) == pytest.approx(0.72, abs=0.1)
    assert float(label_runs.run_length(correlated)) == pytest.approx(1 / 0.18, rel=0.3)


def test_a_stream_that_holds_few_classes_by_nature_is_not_called_correlated():
    chain = labels(0.0, 4000, classes=2)
    state = label_runs.init(10)
    for part in chain.split(64):
        state = label_runs.update(state, part)

    assert abs(float(label_runs.excess(state))) < 0.1
