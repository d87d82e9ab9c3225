"""Betting against the source: tells that entropies are not the source's, by the wealth that bets on that have won."""

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
"""The bound and the first step of a bet, as in the paper's code; a bet of 2 could lose everything."""


@dataclass(frozen=True)
class BettingState(PartState):
    """What the test remembers, float64 but for the count.

    Attributes:
        bet: () the next bet, within (-2, 2): above 0 on entropies greater than the source's, below 0 on smaller ones.
        squares: () sum of squared gradients, which scales the next steps.
        log_wealth: () logarithm of the wealth; with restarts, of 1 + the summed wealth of all starts.
        greatest: () the greatest logarithm of the evidence since the start or the last change; 0 at least.
        count: () int64 values since then.
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
    """What is promised depends on `restarts`; see `update`."""

    alpha: float = option(0.01, "a change is told where the evidence is above 1/alpha", low=1e-12, high=0.5)
    restarts: bool = option(False, "sum the wealth of bets begun at every value, so that late changes are found soon")
    memory: int = option(256, "with restarts, values after which a gradient has lost two thirds of its weight", low=1)
    tolerance: float = option(0.0, "differences of the mean level from 1/2 that are no change", low=0.0, high=0.4)


def init() -> BettingState:
    """Return the state before any value."""
    zero = torch.zeros((), dtype=torch.float64)
    return BettingState(zero, zero, zero, zero, torch.zeros((), dtype=torch.int64))


def update(
    state: BettingState, entropies: Tensor, quantiles: Tensor, options: BettingOptions
) -> tuple[BettingState, Verdict]:
    """Take in the entropies (N,) of a request, in order; after a change the test begins anew with the next request.

    Each value's level u among the source's entropies multiplies the wealth by 1 + bet * (u - 1/2) - |bet| * tolerance;
    scale-free online gradient descent on the logarithm of that chooses the next bet. The statistic is the logarithm of
    the evidence at the change or the last value: a change is evidence above 1/alpha.

    While the mean of u, given all values before, is within the tolerance of 1/2, no way to choose the bets wins:

    - Without restarts, the probability that a change is ever told, however long the stream, is at most alpha (Ville's
      inequality). The wealth of a long stream like the source becomes very small, and must be won back first.
    - With restarts, a change is told after 1/alpha values or more in the mean (the e-detector of Shiryaev-Roberts
      form), and so some day for sure. Choose alpha by how many values may lie between two false alarms, as 1e-6.

    Either holds from each beginning on. A stream that stays unlike the source is told again and again.

    It is assumed that images are drawn independently, within a request too, and that their entropies are those of
    the frozen model under source statistics, which no other image moves. Sorted classes or video are thus told as a
    change. Quantiles of n source images are off by up to 0.58 / sqrt(n) in the mean level (two standard errors): with
    a tolerance below that, long streams can find this error. Values that are not finite change nothing.

    Reference: Bar, Shaer, Romano, Protected Test-Time Adaptation via Online Entropy Matching: A Betting Approach,
    NeurIPS 2024; Shin, Ramdas, Rinaldo, E-detectors, New England Journal of Statistics in Data Science 2024.

    Args:
        state: Before this request.
        entropies: (N,) nats, N from 0.
        quantiles: (K,) of the source's entropies at equally spaced levels from 0 to 1, finite, K from 2.
        options: The same at every call.

    Example:
        >>> quantiles, state = torch.linspace(0, 1, 1001), init()
        >>> for entropies in (torch.tensor([0.3, 0.7, 0.1, 0.9]).repeat(4), torch.full((16,), 0.9)):
        ...     state, verdict = update(state, entropies, quantiles, BettingOptions())
        ...     print(bool(verdict.changed), round(float(verdict.statistic), 1))
        False -1.4
        True 4.7
    """
    heard = entropies[torch.isfinite(entropies)]
    bet, squares, wealth, greatest = (float(x) for x in (state.bet, state.squares, state.log_wealth, state.greatest))
    evidence, keep = wealth, math.exp(-1 / options.memory) if options.restarts else 1.0
    bound = GREATEST_BET / (1 + 2 * options.tolerance)
    for level in source_levels(heard, quantiles).tolist():
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
    count = state.count + len(heard)
    after = BettingState(_scalar(bet), _scalar(squares), _scalar(wealth), _scalar(greatest), count)
    return after, Verdict(False, evidence)


def _scalar(value: float) -> Tensor:
    return torch.scalar_tensor(value, dtype=torch.float64)


def source_levels(entropies: Tensor, quantiles: Tensor) -> Tensor:
    """Return the level (N,) of each entropy (N,) among the source's, float64 in [0, 1], from quantiles (K,).

    Between two quantiles the level is interpolated. An entropy that many source images share has the middle of their
    levels: so the mean level of source images is 1/2 with ties too, and bets that are linear in it need no more.

    Example:
        >>> source_levels(torch.tensor([-1.0, 0.0, 0.5, 2.0]), torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0]))
        tensor([0.0000, 0.2500, 0.6250, 1.0000], dtype=torch.float64)
    """
    known, given = quantiles.double(), entropies.double()
    last = len(known) - 1
    first, after = torch.searchsorted(known, given), torch.searchsorted(known, given, right=True)
    lower, upper = (first - 1).clamp_min(0), first.clamp_max(last)
    between = (given - known[lower]) / (known[upper] - known[lower])
    places = torch.where(after > first, (first + after - 1) / 2, lower + between.nan_to_num(0.0, 0.0, 0.0))
    return places / last
