"""False alarms, delays and costs of the change detectors: `python -m benchmarks.detection --help`.

The streams are independent standard Gaussian values with a shift of the mean. The betting tests get each value's level
among the source values, which is uniform before the shift. The bounds for each detector with the options below, and the
measured values (3 streams of 100,000 stationary values, 50 runs of each shift, two to three minutes on one core) are:

- Page-Hinkley: no theorem. Bounds: 1 false alarm in 100,000 values; 1 sigma found within 50. Measured: none; 31 values.
  The default options, which are for a smaller unit, gave about 60 false alarms in 100,000 values.
- ADWIN: each check gives a false alarm with a probability of at most delta. Bounds: 6.25 false alarms in 100,000
  values; 1 sigma found within 100. Measured: none, because the bound is far from tight; 56 values, a multiple of the
  clock.
- Betting: the probability that it ever gives a false alarm is at most alpha, 0.01. Bound: 1 sigma found within 100.
  Measured: none; 62 values, but 407 after 100,000 stationary ones.
- Betting with restarts: at least 1,000,000 values between false alarms on average. Bound: 1 sigma found within 75.
  Measured: none; 44 values, and 37 after 100,000.

The table also shows the time of an update; `docs/monitoring.md` holds measured ones.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

from adapters.monitors import adwin, betting, page_hinkley
from adapters.monitors.adwin import AdwinOptions
from adapters.monitors.betting import BettingOptions
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.options import Options
from adapters.values import Verdict
from benchmarks import report
from benchmarks.report import JsonFile

PAGE_HINKLEY = PageHinkleyOptions(tolerance=0.25, threshold=25.0, forgetting=1.0)
"""Options for signals of unit variance. The defaults are for a smaller unit, and forgetting raises false alarms."""
ADWIN = AdwinOptions()
BETTING = BettingOptions()
RESTARTS = BettingOptions(restarts=True, alpha=1e-6)
UNIFORM = torch.linspace(0, 1, 1001)
"""Quantiles of a uniform source, whose entropies equal their levels."""

SHIFTS = (0.5, 1.0, 2.0)
USUAL = 1.0
"""The shift, in sigmas, that the bound on the delay is for."""
BEFORE, AFTER = 1000, 1000
"""Numbers of stationary values before a shift, and of shifted values after it."""
SHOWN = 100_000
LEAST_FOUND = 0.95
COSTED = 2000


@dataclass(frozen=True)
class Subject:
    """A detector with its options and bounds.

    Attributes:
        init: Returns its state before any value.
        update: Adds a value ().
        options: Its options, for the report.
        stated: The bound on the mean number of false alarms in a stream, from its number of stationary values.
        delay: The bound on the median number of values until a shift of one sigma is found.
        levels: Whether it takes the values' levels among the source values instead of the values.
    """

    init: Callable[[], Any]
    update: Callable[[Any, Tensor], tuple[Any, Verdict]]
    options: Options
    stated: Callable[[int], float]
    delay: int
    levels: bool = False


def _bets(options: BettingOptions, state: Any, value: Tensor) -> tuple[Any, Verdict]:
    return betting.update(state, value[None], UNIFORM, options)


SUBJECTS = {
    "page_hinkley": Subject(
        init=page_hinkley.init,
        update=lambda state, value: page_hinkley.update(state, value, PAGE_HINKLEY),
        options=PAGE_HINKLEY,
        stated=lambda values: values / 100_000,
        delay=50,
    ),
    "adwin": Subject(
        init=partial(adwin.init, ADWIN),
        update=lambda state, value: adwin.update(state, value, ADWIN),
        options=ADWIN,
        stated=lambda values: ADWIN.delta * (values // ADWIN.clock),
        delay=100,
    ),
    "betting": Subject(
        init=betting.init,
        update=partial(_bets, BETTING),
        options=BETTING,
        stated=lambda _: BETTING.alpha / (1 - BETTING.alpha),
        delay=100,
        levels=True,
    ),
    "betting, restarts": Subject(
        init=betting.init,
        update=partial(_bets, RESTARTS),
        options=RESTARTS,
        stated=lambda values: RESTARTS.alpha * values,
        delay=75,
        levels=True,
    ),
}


@dataclass(frozen=True)
class Figures:
    """The measurements of a detector. A delay is in values, and None if the shift was not found.

    Attributes:
        name: The detector.
        values: Stationary values in each long stream.
        alarms: False alarms in each long stream.
        delays: The delay of each run, by the shift in sigmas.
        late: Delays of a shift of one sigma after each long stream.
        microseconds: Median time of an update.
    """

    name: str
    values: int
    alarms: Sequence[int]
    delays: dict[float, list[int | None]]
    late: Sequence[int | None]
    microseconds: float

    @property
    def stated(self) -> float:
        """The bound on the mean number of false alarms in all long streams."""
        return len(self.alarms) * SUBJECTS[self.name].stated(self.values)

    @property
    def passes(self) -> bool:
        """Whether both bounds hold; false alarms may exceed theirs by two standard errors of a count."""
        usual, share = summary(self.delays[USUAL])
        quiet = sum(self.alarms) <= self.stated + 2 * math.sqrt(self.stated)
        return quiet and usual is not None and usual <= SUBJECTS[self.name].delay and share >= LEAST_FOUND


def summary(delays: Sequence[int | None]) -> tuple[float | None, float]:
    """Return the median delay of the runs that found the shift, and the share of these runs."""
    found = [delay for delay in delays if delay is not None]
    return (median(found) if found else None), len(found) / len(delays)


def normal(seed: int, before: int, shift: float) -> Tensor:
    """Return standard Gaussian values, float32, whose mean shifts by `shift` after `before` values."""
    values = torch.randn(before + AFTER, generator=torch.Generator().manual_seed(seed))
    values[before:] += shift
    return values


def hear(subject: Subject, values: Tensor, before: int) -> tuple[int, int | None]:
    """Return the number of alarms before the shift, and the delay of the first one after it; None if there is none."""
    state, alarms = subject.init(), 0
    for index, value in enumerate(torch.special.ndtr(values) if subject.levels else values):
        state, verdict = subject.update(state, value)
        if verdict.changed and index >= before:
            return alarms, index - before + 1
        alarms += verdict.changed
    return alarms, None


def cost(subject: Subject) -> float:
    """Return the median time of an update on stationary values, in microseconds."""
    state, seconds = subject.init(), []
    for value in torch.rand(COSTED, generator=torch.Generator().manual_seed(0)):
        start = time.perf_counter()
        state, _ = subject.update(state, value)
        seconds.append(time.perf_counter() - start)
    return 1e6 * median(seconds)


def measure(name: str, values: int, seeds: int, runs: int, advance: Callable[[int], None]) -> Figures:
    """Measure one detector; `advance` is called with numbers of processed values."""
    subject = SUBJECTS[name]

    def run_stream(seed: int, before: int, shift: float) -> tuple[int, int | None]:
        result = hear(subject, normal(seed, before, shift), before)
        advance(before + AFTER)
        return result

    delays = {shift: [run_stream(seeds + run, BEFORE, shift)[1] for run in range(runs)] for shift in SHIFTS}
    long = [run_stream(seed, values, USUAL) for seed in range(seeds)]
    alarms, late = [alarms for alarms, _ in long], [delay for _, delay in long]
    return Figures(name, values, alarms, delays, late, cost(subject))


def as_table(found: Sequence[Figures]) -> Table:
    """Return the figures as a table."""
    title = f"False alarms in {SHOWN:,} stationary values; median delay after {BEFORE:,} (share found in {AFTER:,})"
    late = f"{USUAL:g} σ after {found[0].values:,}"
    shifts = [f"{shift:g} σ" for shift in SHIFTS]
    headings = ("detector", "false alarms", "stated", *shifts, "stated", late, "µs", "verdict")
    table = report.new_table(title, headings, ("detector", "verdict"))
    for each in found:
        subject = SUBJECTS[each.name]
        seen = sum(each.alarms) * SHOWN / (each.values * len(each.alarms))
        delays = [_shown(*summary(each.delays[shift])) for shift in SHIFTS]
        stated = (f"{seen:.2f}", f"≤ {subject.stated(SHOWN):.2f}", *delays, f"≤ {subject.delay}")
        verdict = "passes" if each.passes else "fails"
        late_delay = _shown(*summary(each.late))
        table.add_row(
            each.name, *stated, late_delay, f"{each.microseconds:.0f}", verdict, style="" if each.passes else "red"
        )
    return table


def _shown(delay: float | None, share: float) -> str:
    return f"{'—' if delay is None else format(delay, '.0f')} ({share:.0%})"


def main(
    values: Annotated[int, typer.Option(min=BEFORE, help="Stationary values in each long stream.")] = SHOWN,
    seeds: Annotated[int, typer.Option(min=1, help="Long streams.")] = 3,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each shift.")] = 50,
    detector: Annotated[list[str], typer.Option(help="Detectors; repeat.")] = list(SUBJECTS),  # noqa: B006
    json_file: JsonFile = None,
) -> None:
    """Measure false alarms, delays and costs of the change detectors on synthetic streams."""
    unknown = [name for name in detector if name not in SUBJECTS]
    if unknown:
        raise typer.BadParameter(
            f"no detector {unknown[0]!r}; there are: {'; '.join(SUBJECTS)}", param_hint="--detector"
        )
    each = seeds * (values + AFTER) + len(SHIFTS) * runs * (BEFORE + AFTER)
    with report.progress() as progress:
        task = progress.add_task(f"{len(detector)} detectors", total=len(detector) * each)
        found = [measure(name, values, seeds, runs, lambda count: progress.advance(task, count)) for name in detector]
    figures = [
        {**asdict(one), "stated": one.stated, "passes": one.passes, "options": asdict(SUBJECTS[one.name].options)}
        for one in found
    ]
    report.write(as_table(found), width=150, figures=figures, json_file=json_file)


if __name__ == "__main__":
    typer.run(main)
