"""Two-sample tests: beside scipy and naive forms, calibrated without a difference, and sound on extreme samples."""

import math
from functools import partial

import pytest
import scipy.stats
import torch

from adapters.monitors.two_sample import energy_distance, kolmogorov_smirnov, maximum_mean_discrepancy

PERMUTED = {"mmd": maximum_mean_discrepancy, "energy": energy_distance}
ALL = {
    **{
        name: lambda x, y, test=test: test(x, y, 99, torch.Generator().manual_seed(0))
        for name, test in PERMUTED.items()
    },
    "holm": kolmogorov_smirnov,
    "bonferroni": partial(kolmogorov_smirnov, correction="bonferroni"),
}


def normal(rows, dimensions=3, seed=0, shift=0.0):
    return torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(seed)) + shift


def naive_mmd(x, y):
    """The unbiased squared MMD, by its definition."""
    rows = [*x.double(), *y.double()]
    squared = sorted(float((a - b).square().sum()) for i, a in enumerate(rows) for b in rows[:i])
    median = squared[(len(squared) - 1) // 2]

    def kernel(a, b):
        return math.exp(-float((a - b).square().sum()) / (2 * median))

    first, second = rows[: len(x)], rows[len(x) :]
    within = [
        sum(kernel(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j)
        / (len(part) * (len(part) - 1))
        for part in (first, second)
    ]
    between = sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))
    return sum(within) - 2 * between


@pytest.mark.parametrize(("n", "m", "shift"), [(7, 12, 0.0), (12, 7, 1.0), (2, 3, 0.5)])
def test_mmd_is_its_definition(n, m, shift):
    x, y = normal(n, seed=1, shift=shift), normal(m)

    found = maximum_mean_discrepancy(x, y, 0, torch.Generator())

    assert float(found.statistic) == pytest.approx(naive_mmd(x, y), abs=1e-9)


@pytest.mark.parametrize(("n", "m", "shift"), [(40, 60, 0.0), (60, 40, 1.0), (1, 5, 0.5), (1, 1, 2.0)])
def test_the_energy_distance_in_one_dimension_is_that_of_scipy(n, m, shift):
    x, y = normal(n, 1, seed=1, shift=shift), normal(m, 1)

    found = energy_distance(x, y, 0, torch.Generator())

    expected = scipy.stats.energy_distance(x.flatten().double().numpy(), y.flatten().double().numpy())
    assert float(found.statistic) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", PERMUTED)
def test_the_p_value_is_the_share_of_permutations_as_great(name):
    x, y = normal(6, seed=1, shift=0.7), normal(8)
    rows = torch.cat([x, y])
    order = torch.rand(50, 14, generator=torch.Generator().manual_seed(3)).argsort(1)
    permuted = [
        PERMUTED[name](rows[each[:6]], rows[each[6:]], 0, torch.Generator()).statistic
        for each in (torch.arange(14), *order)
    ]

    found = PERMUTED[name](x, y, 50, torch.Generator().manual_seed(3))

    as_great = sum(bool(statistic >= found.statistic - 1e-9) for statistic in permuted)
    assert float(found.p_value) == pytest.approx(as_great / 51)
    assert 0 < as_great < 51


@pytest.mark.parametrize("name", PERMUTED)
def test_a_permutation_test_repeats_under_one_seed_and_draws_from_its_generator_alone(name):
    x, y, before = normal(10, seed=1), normal(10), torch.get_rng_state()

    first, again = (PERMUTED[name](x, y, 99, torch.Generator().manual_seed(5)).p_value for _ in range(2))

    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_without_a_difference_one_test_in_ten_finds_one_at_a_tenth(name):
    least = [
        float(ALL[name](normal(20, seed=seed), normal(40, seed=10**6 + seed)).p_value.min()) for seed in range(300)
    ]

    found = sum(p <= 0.1 for p in least)

    assert found <= 30 + 2 * math.sqrt(300 * 0.1 * 0.9)
    assert found >= 5


@pytest.mark.parametrize("name", ALL)
def test_a_difference_of_the_mean_is_found(name):
    found = ALL[name](normal(30, seed=1, shift=1.0), normal(60))

    assert float(found.p_value.min()) <= 0.01


@pytest.mark.parametrize("name", ALL)
def test_a_difference_of_the_spread_alone_is_found(name):
    found = ALL[name](3 * normal(60, seed=1), normal(120))

    assert float(found.p_value.min()) <= 0.01


@pytest.mark.parametrize(("n", "m"), [(64, 256), (30, 30), (5, 3), (1, 4)])
def test_kolmogorov_smirnov_statistics_are_those_of_scipy_and_p_values_asymptotic(n, m):
    x, y = normal(n, 5, seed=1, shift=0.3), normal(m, 5)

    found = kolmogorov_smirnov(x, y, correction="bonferroni")

    for dimension in range(5):
        expected = scipy.stats.ks_2samp(x[:, dimension].numpy(), y[:, dimension].numpy()).statistic
        assert float(found.statistic[dimension]) == pytest.approx(expected, abs=1e-9)
    limit = scipy.stats.kstwobign.sf(math.sqrt(n * m / (n + m)) * found.statistic.numpy())
    torch.testing.assert_close(found.p_value, torch.as_tensor(5 * limit).clamp_max(1), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(16, 256), (64, 256), (64, 64), (30, 40)])
def test_small_asymptotic_p_values_are_above_the_exact_ones_and_by_less_than_a_point(n, m):
    for seed in range(20):
        x, y = normal(n, 1, seed=seed, shift=0.6), normal(m, 1, seed=1000 + seed)
        exact = scipy.stats.ks_2samp(x.flatten().numpy(), y.flatten().numpy(), method="exact").pvalue
        found = float(kolmogorov_smirnov(x, y).p_value)
        if exact < 0.05:
            assert exact * 0.99 <= found <= exact + 0.02


def test_holm_is_its_definition_and_never_above_bonferroni():
    shifts = torch.tensor([0.0, 0.9, 0.5, 0.1, 0.7, 0.3])
    x, y = normal(50, 6, seed=1) + shifts, normal(50, 6)
    raw = [float(kolmogorov_smirnov(x[:, [d]], y[:, [d]]).p_value) for d in range(6)]
    expected, reached = [0.0] * 6, 0.0
    for rank, dimension in enumerate(sorted(range(6), key=raw.__getitem__)):
        reached = max(reached, min(1.0, (6 - rank) * raw[dimension]))
        expected[dimension] = reached

    holm, bonferroni = kolmogorov_smirnov(x, y).p_value, kolmogorov_smirnov(x, y, "bonferroni").p_value

    assert holm.tolist() == pytest.approx(expected)
    assert bool((holm <= bonferroni).all())
    assert bonferroni.tolist() == pytest.approx([min(1.0, 6 * p) for p in raw])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param(normal(20), normal(20), id="identical samples"),
        pytest.param(torch.full((8, 3), 0.1), torch.full((9, 3), 0.1), id="constant features"),
        pytest.param(torch.full((8, 3), 1e30), torch.full((9, 3), 1e30), id="great constant features"),
        pytest.param(normal(1, seed=1), normal(30), id="one row"),
        pytest.param(normal(30, seed=1), normal(1), id="one reference row"),
        pytest.param(normal(1, seed=1), normal(1), id="one row each"),
    ],
)
def test_where_nothing_differs_or_little_is_known_no_difference_is_told(name, x, y):
    found = ALL[name](x, y)

    assert bool(torch.isfinite(found.statistic).all())
    assert bool((found.p_value > 0.03).all())  # one row among 31 can have no p-value below 1/31
    assert bool((found.p_value <= 1).all())
    assert found.dropped == 0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("empty", [torch.empty(0, 3), torch.full((4, 3), math.nan)], ids=["no rows", "no finite rows"])
def test_an_empty_sample_tells_nothing(name, empty):
    for x, y in ((empty, normal(10)), (normal(10), empty), (empty, empty)):
        found = ALL[name](x, y)

        assert not bool(found.statistic.any())
        assert bool((found.p_value == 1).all())
        assert found.dropped == sum(len(part) for part in (x, y) if part is empty)


def test_mmd_needs_two_rows_of_each_sample():
    found = ALL["mmd"](normal(1, shift=100.0), normal(30))

    assert (float(found.statistic), float(found.p_value)) == (0, 1)


@pytest.mark.parametrize("name", ALL)
def test_rows_that_are_not_finite_are_dropped_and_told(name):
    x, y = normal(20, seed=1, shift=0.5), normal(30)
    bad = normal(3)
    bad[0, 1], bad[1, 2], bad[2, 0] = math.nan, math.inf, -math.inf

    found, clean = ALL[name](torch.cat([bad[:2], x]), torch.cat([y, bad[2:]])), ALL[name](x, y)

    assert found.dropped == 3
    assert torch.equal(found.statistic, clean.statistic)
    assert torch.equal(found.p_value, clean.p_value)


def test_samples_that_are_mostly_equal_rows_are_told_apart_by_the_others():
    x, y = torch.zeros(40, 2), torch.zeros(40, 2)
    x[:15] = 1.0

    found = ALL["mmd"](x, y)

    assert float(found.p_value) == pytest.approx(0.01)


@pytest.mark.parametrize("name", ALL)
def test_a_common_offset_changes_nothing(name):
    x, y = normal(20, seed=1, shift=0.5).double(), normal(30).double()

    here, far = ALL[name](x, y), ALL[name](x + 1e6, y + 1e6)

    torch.testing.assert_close(far.statistic, here.statistic, atol=1e-6, rtol=0)
