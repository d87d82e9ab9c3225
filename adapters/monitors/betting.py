"""Betting test of the entropies against the source's distribution; a bettor's wealth is the evidence for a change."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.options import Options, option
from adapters.state import Range
from adapters.values import PartState, Verdict

GREATEST_BET, RATE = 1.8, 2 / math.sqrt(3)
"""The bound on a bet and the first step size, as in the paper's code; a bet of 2 could lose all wealth."""


@dataclass(frozen=True)
class BettingState(PartState):
    """The state of the test, float64 except the count.

    Attributes:
        bet: () the next bet, within (-2, 2): above 0 on entropies larger than the source's, below 0 on smaller ones.
        squares: () sum of squared gradients, which scales the next steps.
        log_wealth: () logarithm of the wealth; with restarts, of 1 + the summed wealth of all starts.
        greatest: () largest logarithm of the evidence since the start or the last change; at least 0.
        count: () int64 number of values since then.
    """

    bet: Tensor
    squares: Tensor
    log_wealth: Tensor
    greatest: Tensor
    count: Tensor
    ranges: ClassVar[Mapping[str, Range]] = {
        "bet": (-GREATEST_BET, GREATEST_BET),
        "squares": (0.0, math.inf),
        "log_wealth": (-math.inf, 100.0),
        "greatest": (0.0, 100.0),
    }


@dataclass(frozen=True, kw_only=True)
class BettingOptions(Options):
    """Options of the test; its guarantee depends on `restarts`, see `update`."""

    alpha: float = option(0.01, "evidence above 1/alpha is a change", low=1e-12, high=0.5)
    restarts: bool = option(False, "start a bet at every value and sum their wealth, to detect late changes sooner")
    memory: int = option(256, "with restarts, values after which a gradient has lost two thirds of its weight", low=1)
    tolerance: float = option(0.0, "deviations of the mean level from 1/2 up to this are no change", low=0.0, high=0.4)


def init() -> BettingState:
    """Return the initial state."""
    zero = torch.zeros((), dtype=torch.float64)
    return BettingState(zero, zero, zero, zero, torch.zeros((), dtype=torch.int64))


def update(
    state: BettingState, entropies: Tensor, quantiles: Tensor, options: BettingOptions
) -> tuple[BettingState, Verdict]:
    """Test the entropies (N,) of a request, in order; after a change the test restarts with the next request.

    Let u be a value's level (quantile) among the source's entropies. It multiplies the wealth by 1 + bet * (u - 1/2) -
    |bet| * tolerance. Scale-free online gradient descent on the logarithm of this factor chooses the next bet. The
    statistic is the logarithm of the evidence at the change or at the last value; evidence above 1/alpha is a change.

    While the conditional mean of u, given all earlier values, is within the tolerance of 1/2, no betting strategy gains
    wealth in expectation. This limits false alarms:

    - Without restarts, the probability of any false alarm is at most alpha, however long the stream (Ville's
      inequality). On a long stream like the source the wealth becomes very small, so that a late change is found late.
    - With restarts, the expected number of values until a false alarm is at least 1/alpha (an e-detector of
      Shiryaev-Roberts form). A long enough stream does raise one: choose alpha by the acceptable number of values
      between two false alarms, for example 1e-6.

    Both hold from each start of the test. A stream that stays unlike the source is reported again and again.

    The test assumes that images are drawn independently, also within a request, and that entropies come from the frozen
    model under source statistics, which do not depend on other images. It therefore reports sorted classes or video as
    a change. Quantiles of n source images shift the mean level by up to 0.58 / sqrt(n) (two standard errors); with a
    smaller tolerance, a long stream may report this error as a change. Values that are not finite change nothing.

    Reference: Bar, Shaer, Romano, Protected Test-Time Adaptation via Online Entropy Matching: A Betting Approach,
    NeurIPS 2024; Shin, Ramdas, Rinaldo, E-detectors, New England Journal of Statistics in Data Science 2024.

    Args:
        state: The state before this request.
        entropies: (N,) nats, N at least 0.
        quantiles: (K,) of the source's entropies at equally spaced levels from 0 to 1, finite, K at least 2.
        options: The same at every call.

    Example:
        >>> quantiles, state = torch.linspace(0, 1, 1001), init()
        >>> for entropies in (torch.tensor([0.3, 0.7, 0.1, 0.9]).repeat(4), torch.full((16,), 0.9)):
        ...     state, verdict = update(state, entropies, quantiles, BettingOptions())
        ...     print(bool(verdict.changed), round(float(verdict.statistic), 1))
        False -1.4
        True 4.7
    """
    finite = entropies[torch.isfinite(entropies)]
    bet, squares, wealth, greatest = (float(x) for x in (state.bet, state.squares, state.log_wealth, state.greatest))
    evidence, keep = wealth, math.exp(-1 / options.memory) if options.restarts else 1.0
    bound = GREATEST_BET / (1 + 2 * options.tolerance)
    for level in source_levels(finite, quantiles).tolist():
        excess = level - 0.5
        favoured = options.tolerance * ((bet > 0) - (bet < 0))
        payoff = 1 + bet * (excess - favoured)
        evidence = wealth + math.log(payoff)
        wealth = math.log1p(math.exp(evidence)) if options.restarts else evidence
        if evidence > -math.log(options.alpha):
            return init(), Verdict(True, evidence)
        gradient = (excess - favoured) / payoff
        squares = keep * squares + gradient * gradient
        step = RATE * gradient / math.sqrt(squares) if squares else 0.0
        bet = min(max(bet + step, -bound), bound)
        greatest = max(greatest, evidence)
    count = state.count + len(finite)
    after = BettingState(_scalar(bet), _scalar(squares), _scalar(wealth), _scalar(greatest), count)
    return after, Verdict(False, evidence)


def _scalar(value: float) -> Tensor:
    return torch.scalar_tensor(value, dtype=torch.float64)


def source_levels(entropies: Tensor, quantiles: Tensor) -> Tensor:
    """Return the level (N,) of each entropy (N,) among the source's, float64 in [0, 1], from quantiles (K,).

    Between two quantiles the level is interpolated. An entropy that many source images share gets the middle of their
    levels, so that the mean level of source images is 1/2 even with ties; bets that are linear in it need no more.

    Example:
        >>> source_levels(torch.tensor([-1.0, 0.0, 0.5, 2.0]), torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0]))
        tensor([0.0000, 0.2500, 0.6250, 1.0000], dtype=torch.float64)
    """
    grid, values = quantiles.double(), entropies.double()
    last = len(grid) - 1
    first, after = torch.searchsorted(grid, values), torch.searchsorted(grid, values, right=True)
    lower, upper = (first - 1).clamp_min(0), first.clamp_max(last)
    between = (values - grid[lower]) / (grid[upper] - grid[lower])
    places = torch.where(after > first, (first + after - 1) / 2, lower + between.nan_to_num(0.0, 0.0, 0.0))
    return places / last
