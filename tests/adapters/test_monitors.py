"""Monitors: what they find on made streams with known changes, and what they never let in."""

import math

import pytest
import torch

from adapters.functional.moments import channel_moments
from adapters.monitors import label_correlation, label_runs, moving_mean, moving_moments, page_hinkley
from adapters.monitors.norm_distance import distance
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.state import flatten
from adapters.values import Moments

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


@pytest.mark.parametrize("great", [1e300, -1e39])
def test_a_value_too_great_for_the_state_of_page_hinkley_never_reaches_it(great):
    known = page_hinkley.update(page_hinkley.init(), 1e38, OPTIONS)[0]

    after, verdict = page_hinkley.update(known, great, OPTIONS)

    assert after is known
    assert not verdict.changed


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_never_reaches_a_monitor(poison):
    known = page_hinkley.update(page_hinkley.init(), torch.tensor(1.0), OPTIONS)[0]
    mean = moving_mean.update(moving_mean.init(), torch.tensor(1.0), 8)

    after, verdict = page_hinkley.update(known, torch.tensor(poison), OPTIONS)
    assert not verdict.changed
    assert all(torch.equal(value, flatten(known)[name]) for name, value in flatten(after).items())
    poisoned = flatten(moving_mean.update(mean, torch.tensor(poison), 8))
    assert all(torch.equal(value, flatten(mean)[name]) for name, value in poisoned.items())


def test_the_moving_mean_weighs_by_images_and_forgets():
    state = moving_mean.init()
    for _ in range(400):
        state = moving_mean.update(state, torch.tensor(1.0), 1, memory=64)
    one_by_one = moving_mean.update(state, torch.tensor(2.0), 32, memory=64)

    assert float(state.mean) == pytest.approx(1.0)
    assert float(one_by_one.mean) == pytest.approx(2 - math.exp(-0.5), abs=0.01)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_moving_moments_are_those_of_the_weighted_images_together_whatever_the_batch(batch):
    x = noise(64 * 3, scale=2.0).reshape(64, 3) + torch.arange(64)[:, None] / 16
    state = moving_moments.init(channel_moments(x))
    for part in x.split(batch):
        state = moving_moments.update(state, channel_moments(part), len(part), memory=10**6)

    expected = channel_moments(x)
    torch.testing.assert_close(state.moments.mean, expected.mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(state.moments.var, expected.var, atol=1e-3, rtol=0)


def test_moving_moments_forget_and_let_in_nothing_that_is_not_finite():
    old, new = channel_moments(noise(64).reshape(32, 2) + 5), channel_moments(noise(64, 1).reshape(32, 2))
    state = moving_moments.update(moving_moments.init(old), old, 32, memory=32)
    for _ in range(12):
        state = moving_moments.update(state, new, 32, memory=32)
    poisoned = moving_moments.update(state, Moments(torch.tensor([math.nan, 0.0]), torch.ones(2)), 32, memory=32)

    torch.testing.assert_close(state.moments.mean, new.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(state.moments.var, new.var, atol=1e-3, rtol=0)
    assert all(torch.equal(value, flatten(state)[name]) for name, value in flatten(poisoned).items())


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


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_runs_are_found_whatever_the_batch_and_a_fair_stream_has_none(batch):
    def known(chain):
        runs, answers = label_runs.init(), label_correlation.init(10)
        for part in chain.split(batch):
            runs = label_runs.update(runs, part)
            answers = label_correlation.update(answers, torch.eye(10)[part])
        return float(label_runs.run_length(runs)), float(label_correlation.correlation(answers))

    fair, correlated = known(labels(0.0)), known(labels(0.8))

    assert abs(fair[1]) < 0.06  # three standard errors of 256 images in nine dimensions
    assert correlated[1] == pytest.approx((0.8 + 0.64 + 0.512 + 0.4096) / 4, abs=0.1)
    assert correlated[0] == pytest.approx(1 / 0.18, rel=0.3)


def test_the_correlation_is_the_same_however_the_stream_is_cut():
    answers = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    whole = label_correlation.update(label_correlation.init(5), answers, memory=10**9)
    cut = label_correlation.init(5)
    for part in answers.split([1, 1, 2, 3, 20, 33]):
        cut = label_correlation.update(cut, part, memory=10**9)

    for name, value in flatten(whole).items():
        torch.testing.assert_close(flatten(cut)[name], value, atol=1e-4, rtol=1e-5)
    assert float(whole.pairs) == 59 + 58 + 57 + 56


def test_uncertain_answers_show_the_correlation_as_well_as_certain_ones():
    chain = torch.eye(10)[labels(0.8)]
    sure, unsure = (
        float(label_correlation.correlation(label_correlation.update(label_correlation.init(10), answers)))
        for answers in (chain, 0.3 * chain + 0.07)
    )

    assert unsure == pytest.approx(sure, abs=0.05)


def test_a_stream_that_holds_few_classes_by_nature_is_not_called_correlated():
    state = label_correlation.init(10)
    for part in torch.eye(10)[labels(0.0, 4000, classes=2)].split(64):
        state = label_correlation.update(state, part)

    assert abs(float(label_correlation.correlation(state))) < 0.1  # 10 images of the prior, and sampling


def test_one_class_for_ever_is_correlated_and_answers_that_are_not_finite_leave_it_finite():
    one = label_correlation.update(label_correlation.init(3), torch.eye(3)[torch.zeros(500, dtype=torch.int64)])
    broken = label_correlation.update(one, torch.full((4, 3), math.nan))

    assert float(label_correlation.correlation(one)) == pytest.approx(1.0, abs=0.01)
    assert math.isfinite(float(label_correlation.correlation(broken)))
    assert float(label_correlation.correlation(label_correlation.init(3))) == 0
