"""Two-sample tests of whether features come from the same distribution as reference features."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """The result of a test, float64: () for all dimensions together, or (d,) for each dimension.

    `dropped` is the number of rows of both samples that were left out because they are not finite. If too few rows
    remain, the statistic is 0 and the p-value 1.
    """

    statistic: Tensor
    p_value: Tensor
    dropped: int


def maximum_mean_discrepancy(
    features: Tensor, reference: Tensor, permutations: int, generator: torch.Generator
) -> Comparison:
    """Compare features (n, d) with reference features (m, d), n and m at least 2, by the unbiased squared MMD.

    The kernel is exp(-d^2 / (2 s)), with s the median of all squared distances. If s is 0, the kernel is 1 for equal
    rows and 0 otherwise. The p-value is the share of permutations of all rows, including the original order, whose
    statistic is at least as large.

    Reference: Gretton et al., A Kernel Two-Sample Test, JMLR 2012.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> features = torch.randn(32, 4, generator=generator)
        >>> maximum_mean_discrepancy(features + 1, features, 99, generator).p_value
        tensor(0.0100, dtype=torch.float64)
    """
    rows, n, m, dropped = _pooled(features, reference)
    if min(n, m) < 2:
        return _no_result((), dropped)
    squared = _squared_distances(rows)
    above = squared[torch.triu_indices(n + m, n + m, 1).unbind()]
    kernel = (-squared / (2 * above.median()).clamp_min(torch.finfo(torch.float64).tiny)).exp()
    first, second, between = _sums(kernel, n, permutations, generator)
    unbiased = (first - n) / (n * (n - 1)) + (second - m) / (m * (m - 1)) - 2 * between / (n * m)
    return Comparison(unbiased[0], _p_value(unbiased, kernel), dropped)


def energy_distance(features: Tensor, reference: Tensor, permutations: int, generator: torch.Generator) -> Comparison:
    """Compare features (n, d) with reference features (m, d) by sqrt(2 E|X-Y| - E|X-X'| - E|Y-Y'|).

    n and m are at least 1. The p-value is computed as in `maximum_mean_discrepancy`.

    Reference: Székely, Rizzo, Energy Statistics, Journal of Statistical Planning and Inference 2013.

    Example:
        >>> energy_distance(torch.zeros(3, 1), torch.ones(3, 1), 99, torch.Generator().manual_seed(0)).statistic
        tensor(1.4142, dtype=torch.float64)
    """
    rows, n, m, dropped = _pooled(features, reference)
    if min(n, m) < 1:
        return _no_result((), dropped)
    distances = _squared_distances(rows).sqrt()
    first, second, between = _sums(distances, n, permutations, generator)
    energy = 2 * between / (n * m) - first / n**2 - second / m**2
    return Comparison(energy[0].clamp_min(0).sqrt(), _p_value(energy, distances), dropped)


def kolmogorov_smirnov(
    features: Tensor, reference: Tensor, correction: Literal["holm", "bonferroni"] = "holm"
) -> Comparison:
    """Compare each dimension of features (n, d) with that of reference features (m, d), n and m at least 1.

    The p-values (d,) are corrected for d tests; the smallest is the p-value of all dimensions together. They are
    asymptotic: below 0.2, where it matters, they exceed the exact ones (by half for 64 rows each), more so with ties.

    Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979;
    Rabanser, Günnemann, Lipton, Failing Loudly, NeurIPS 2019, for one test per dimension.

    Example:
        >>> rows = torch.arange(20.0)[:, None]
        >>> compared = kolmogorov_smirnov(torch.cat([rows, rows + 10], 1), torch.cat([rows, rows], 1))
        >>> compared.statistic, compared.p_value < 0.05
        (tensor([0.0000, 0.5000], dtype=torch.float64), tensor([False,  True]))
    """
    rows, n, m, dropped = _pooled(features, reference)
    if min(n, m) < 1:
        return _no_result(rows.shape[1:], dropped)
    values = rows.T.contiguous()
    first, second = (part.sort(1).values for part in (values[:, :n], values[:, n:]))
    below = torch.searchsorted(first, values, right=True).double() / n
    statistic = (below - torch.searchsorted(second, values, right=True).double() / m).abs().amax(1)
    p_value = _kolmogorov(math.sqrt(n * m / (n + m)) * statistic)
    tests = len(p_value)
    if correction == "bonferroni":
        return Comparison(statistic, (p_value * tests).clamp_max(1), dropped)
    ordered, order = p_value.sort()
    stepped = (ordered * torch.arange(tests, 0, -1)).cummax(0).values.clamp_max(1)
    return Comparison(statistic, torch.empty_like(p_value).scatter(0, order, stepped), dropped)


def _pooled(features: Tensor, reference: Tensor) -> tuple[Tensor, int, int, int]:
    """Return the finite rows of both samples as float64, the number from each, and the number of dropped rows."""
    first, second = (sample[torch.isfinite(sample).all(1)].double() for sample in (features, reference))
    dropped = len(features) + len(reference) - len(first) - len(second)
    return torch.cat([first, second]), len(first), len(second), dropped


def _no_result(shape: tuple[int, ...], dropped: int) -> Comparison:
    return Comparison(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64), dropped)


def _squared_distances(rows: Tensor) -> Tensor:
    """Return the squared distances of all rows, exactly 0 for equal rows; a matrix product alone leaves rounding."""
    centred = rows - rows.mean(0)
    norms = centred.square().sum(1)
    together = norms[:, None] + norms
    squared = together - 2 * centred @ centred.T
    return torch.where(squared > 1e-12 * together, squared, 0.0).fill_diagonal_(0)


def _sums(pairs: Tensor, n: int, permutations: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums of pairs within the first, within the second and between the samples, the original order first."""
    drawn = torch.rand(permutations, len(pairs), generator=generator).argsort(1)[:, :n]
    chosen = torch.cat([torch.arange(n)[None], drawn])
    member = torch.zeros(len(chosen), len(pairs), dtype=pairs.dtype).scatter(1, chosen, 1.0)
    to_first = member @ pairs
    first = (to_first * member).sum(1)
    between = to_first.sum(1) - first
    return first, pairs.sum() - first - 2 * between, between


def _p_value(statistics: Tensor, pairs: Tensor) -> Tensor:
    """Return the share of statistics at least as large as the first; differences within rounding count as equal."""
    return (statistics >= statistics[0] - 1e-9 * pairs.mean()).double().mean()


def _kolmogorov(scaled: Tensor) -> Tensor:
    """Return the probability that Kolmogorov's distribution exceeds each value (d,)."""
    terms = torch.arange(1, 31, dtype=torch.float64)
    series = -2 * (-1) ** terms * torch.exp(-2 * (terms * scaled[:, None]).square())
    return torch.where(scaled < 0.2, 1.0, series.sum(1).clamp(0, 1))  # below 0.2 it is 1 to within 1e-12
