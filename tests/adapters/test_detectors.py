"""Detectors of change: beside river and naive forms, what they promise on stationary streams, and what they find."""

import math
from functools import partial

import pytest
import torch

from adapters.monitors import adwin, betting, page_hinkley
from adapters.monitors.adwin import AdwinOptions
from adapters.monitors.betting import BettingOptions
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.state import flatten, size_bytes, unflatten

TABLE = torch.linspace(0, 1, 1001)
RESTARTS = BettingOptions(restarts=True, alpha=1e-4)


def noise(count, seed=0, shift=0.0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def uniform(count, seed=0):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shifted(count, sigmas, seed=0):
    """Levels among the source's of Gaussian values whose mean has moved."""
    return torch.special.ndtr(noise(count, seed, sigmas))


def told_by_adwin(values, options):
    """Return the indices where ADWIN tells a change."""
    state, found = adwin.init(options), []
    for index, value in enumerate(values):
        state, verdict = adwin.update(state, value, options)
        if verdict.changed:
            found.append(index)
    return found


def bet(levels, options, request=1, state=None, quantiles=TABLE):
    """Return the state after a stream in requests, or at the first change, and how many values came until it."""
    state = betting.init() if state is None else state
    for index, part in enumerate(levels.split(request), 1):
        state, verdict = betting.update(state, part, quantiles, options)
        if verdict.changed:
            return state, index * request
    return state, None


STREAMS = {
    "stationary": noise(3000),
    "step": torch.cat([noise(1000), noise(1000, 1, 1.0), noise(1000, 2, -1.0)]),
    "gradual": noise(3000, 3) + torch.linspace(0, 3, 3000, dtype=torch.float64),
    "small unit": torch.cat([uniform(1500), uniform(1500, 1) * 0.5]),
}


@pytest.fixture(scope="module")
def river_adwin():
    from river.drift import ADWIN  # takes seconds, which every worker would wait for

    return ADWIN


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"clock": 1}, {"delta": 0.1, "clock": 8}, {"min_window": 1, "grace": 1, "clock": 4}, {"buckets": 3}],
    ids=str,
)
def test_adwin_has_the_window_and_the_changes_of_river(river_adwin, name, settings):
    options = AdwinOptions(**settings)
    oracle = river_adwin(
        delta=options.delta, clock=options.clock, max_buckets=options.buckets, min_window_length=options.min_window,
        grace_period=options.grace,
    )  # fmt: skip
    state = adwin.init(options)

    for value in STREAMS[name]:
        state, verdict = adwin.update(state, value, options)
        oracle.update(float(value))
        assert bool(verdict.changed) == oracle.drift_detected
        if not verdict.changed:
            assert (int(state.width), float(state.total)) == (oracle.width, oracle.total)
            assert float(state.variance) == pytest.approx(oracle.variance, rel=1e-12)


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_adwin_finds_a_rise_and_a_fall_of_the_mean_and_then_the_next(shift):
    values = torch.cat([noise(500), noise(500, 1, shift), noise(500, 2)])

    found = told_by_adwin(values, AdwinOptions())

    assert len(found) == 2
    assert 500 <= found[0] < 600 < 1000 <= found[1] < 1100


def test_the_statistic_of_adwin_is_the_change_in_units_of_its_bound():
    options, state = AdwinOptions(clock=10), adwin.init(AdwinOptions())
    statistics = []

    for value in torch.tensor([0.0] * 30 + [1.0] * 40):
        state, verdict = adwin.update(state, value, options)
        statistics.append((float(verdict.statistic), bool(verdict.changed)))

    assert all(changed == (statistic > 1) for statistic, changed in statistics)
    assert [statistic for statistic, _ in statistics if statistic] == [
        statistic for index, (statistic, _) in enumerate(statistics) if index % 10 == 9 and index > 29
    ]
    assert any(changed for _, changed in statistics)


def test_the_state_of_adwin_has_a_fixed_size_and_begins_anew_when_it_is_full():
    options = AdwinOptions(rows=3, buckets=2, clock=10**6)
    state, widths = adwin.init(options), []
    for value in noise(40):
        state = adwin.update(state, value, options)[0]
        widths.append(int(state.width))

    assert size_bytes(state) == size_bytes(adwin.init(options))
    assert max(widths) <= 2 * (1 + 2 + 4)
    assert widths.count(0) > 1
    assert widths[-1] < 40


@pytest.mark.parametrize("options", [BettingOptions(), RESTARTS], ids=["betting", "restarts"])
def test_bets_are_those_of_the_paper(options):
    levels = torch.cat([uniform(40), 0.3 + 0.4 * uniform(40, 1)])
    wealth, summed, epsilon, gradients = 1.0, 0.0, 0.0, []
    keep = math.exp(-1 / options.memory) if options.restarts else 1.0
    for u in betting.source_levels(levels, TABLE).tolist():
        payoff = 1 + epsilon * (u - 0.5)
        wealth, summed = wealth * payoff, (1 + summed) * payoff
        gradients = [keep**0.5 * gradient for gradient in gradients] + [(u - 0.5) / payoff]
        epsilon += 2 / math.sqrt(3) * gradients[-1] / math.sqrt(sum(gradient**2 for gradient in gradients))
        epsilon = max(-1.8, min(1.8, epsilon))

    state, told = bet(levels, options, request=16)

    assert told is None
    assert int(state.count) == 80
    assert float(state.bet) == pytest.approx(epsilon)
    assert float(state.log_wealth) == pytest.approx(math.log1p(summed) if options.restarts else math.log(wealth))


@pytest.mark.parametrize("options", [BettingOptions(), RESTARTS], ids=["betting", "restarts"])
def test_betting_is_the_same_however_the_stream_is_cut_and_leaves_out_what_is_not_finite(options):
    levels = uniform(60)
    poisoned = torch.cat([levels[:10], torch.tensor([math.nan, math.inf, -math.inf]), levels[10:], levels[:0] + 1])

    states = [bet(levels, options, request)[0] for request in (1, 7, 60)] + [bet(poisoned, options, 9)[0]]

    first = flatten(states[0])
    assert all(torch.equal(flatten(other)[name], first[name]) for other in states for name in first)


def entropies_with_ties(count, seed):
    """Four in ten are 0 nats exactly, as of a very sure model; three in ten are 0.5."""
    drawn = uniform(count, seed)
    return torch.where(drawn < 0.4, 0.0, torch.where(drawn > 0.7, 0.5, drawn))


@pytest.mark.parametrize("draw", [uniform, entropies_with_ties])
def test_the_probability_of_ever_a_false_alarm_is_at_most_alpha(draw):
    options = BettingOptions(alpha=0.2)
    quantiles = draw(10**6, 12345).quantile(torch.linspace(0, 1, 1001, dtype=torch.float64))

    told = [bet(draw(2000, seed), options, 50, quantiles=quantiles)[1] is not None for seed in range(300)]

    assert 0 < sum(told) / 300 <= 0.2 + 2 * math.sqrt(0.2 * 0.8 / 300)


@pytest.mark.parametrize("draw", [uniform, entropies_with_ties])
def test_the_mean_level_of_the_source_is_a_half_with_ties_too(draw):
    entropies = draw(10**6, 0)
    quantiles = entropies.quantile(torch.linspace(0, 1, 1001, dtype=torch.float64)).float()

    levels = betting.source_levels(entropies.float(), quantiles)

    assert float(levels.mean()) == pytest.approx(0.5, abs=5e-4)
    assert 0 <= float(levels.min()) <= float(levels.max()) <= 1


def test_levels_are_those_between_quantiles_and_stay_within_the_table():
    table = torch.tensor([1.0, 2.0, 2.0, 2.0, 4.0])

    levels = betting.source_levels(torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 9.0]), table)

    assert levels.tolist() == [0, 0, 0.125, 0.5, 0.875, 1, 1]
    assert betting.source_levels(torch.tensor([0.0, 1.0, 2.0]), torch.ones(3)).tolist() == [0, 0.5, 1]


def test_with_restarts_the_mean_run_to_a_false_alarm_is_at_least_one_over_alpha():
    options = BettingOptions(restarts=True, alpha=1 / 100)

    runs = torch.tensor([float(bet(uniform(3000, seed), options)[1]) for seed in range(60)])

    assert float(runs.mean()) + 2 * float(runs.std()) / math.sqrt(60) >= 100


@pytest.mark.parametrize("options", [BettingOptions(), RESTARTS], ids=["betting", "restarts"])
@pytest.mark.parametrize("sigmas", [1.0, -1.0])
def test_entropies_above_and_below_the_source_are_found(options, sigmas):
    state, told = bet(shifted(200, sigmas), options)

    assert told is not None
    assert told < 100
    assert int(state.count) == 0


def test_after_a_long_stream_like_the_source_restarts_find_a_change_much_sooner():
    before, after = uniform(20_000), shifted(1000, 1.0)

    delays = []
    for options in (BettingOptions(alpha=1e-6), BettingOptions(restarts=True, alpha=1e-6)):
        state, told = bet(before, options, request=100)
        assert told is None
        delays.append(bet(after, options, state=state)[1])

    assert delays[1] < 100
    assert delays[0] > 3 * delays[1]


def test_within_the_tolerance_no_difference_is_told():
    slightly_off = 0.06 + 0.94 * uniform(50_000)

    strict = bet(slightly_off, BettingOptions(), 50)[1]
    tolerant = bet(slightly_off, BettingOptions(tolerance=0.03), 50)[1]
    changed = bet(shifted(500, 1.0), BettingOptions(tolerance=0.03))[1]

    assert strict is not None
    assert tolerant is None
    assert changed is not None


def test_no_level_can_ruin_a_bet():
    options = BettingOptions(tolerance=0.4, alpha=1e-12)

    for levels in (torch.tensor([1.0, 0.0]).repeat(500), torch.tensor([1.0] * 20 + [0.0] * 20).repeat(20)):
        state, _ = bet(levels, options)
        assert all(torch.isfinite(value) for value in flatten(state).values())


ADWIN_OPTIONS = AdwinOptions()
PAGE_HINKLEY = PageHinkleyOptions(tolerance=0.25, threshold=25.0, forgetting=1.0)
DETECTORS = {
    "page_hinkley": (page_hinkley.init, lambda state, value: page_hinkley.update(state, value, PAGE_HINKLEY)),
    "adwin": (partial(adwin.init, ADWIN_OPTIONS), lambda state, value: adwin.update(state, value, ADWIN_OPTIONS)),
    "betting": (betting.init, lambda state, value: betting.update(state, value[None], TABLE, BettingOptions())),
    "restarts": (betting.init, lambda state, value: betting.update(state, value[None], TABLE, RESTARTS)),
}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [0, 100])
def test_a_value_that_is_not_finite_leaves_a_detector_bit_equal_and_seeing(name, poison, before):
    init, update = DETECTORS[name]
    state = init()
    for value in uniform(before):
        state, _ = update(state, value)

    poisoned, verdict = update(state, torch.tensor(poison))
    for _ in range(3):
        poisoned, _ = update(poisoned, torch.tensor(poison))

    assert not verdict.changed
    assert math.isfinite(float(verdict.statistic))
    assert all(torch.equal(value, flatten(state)[tensor]) for tensor, value in flatten(poisoned).items())
    assert any(update_until_told(update, poisoned, torch.cat([uniform(200, 1), 0.9 + 0.1 * uniform(300)]) * 3))


def update_until_told(update, state, values):
    for value in values:
        state, verdict = update(state, value)
        yield bool(verdict.changed)


def test_a_value_whose_square_is_not_finite_never_reaches_adwin():
    state = adwin.update(adwin.init(ADWIN_OPTIONS), torch.tensor(1.0), ADWIN_OPTIONS)[0]

    after, verdict = adwin.update(state, torch.tensor(1e200, dtype=torch.float64), ADWIN_OPTIONS)

    assert after is state
    assert not verdict.changed


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_goes_on_from_its_named_tensors(name):
    init, update = DETECTORS[name]
    state = restored = init()
    for value in uniform(150):
        state, verdict = update(state, value)
        restored, again = update(unflatten(init(), flatten(restored)), value)
        assert verdict == again

    assert all(torch.equal(value, flatten(state)[tensor]) for tensor, value in flatten(restored).items())
