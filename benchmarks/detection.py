"""False alarms, delays and costs of the detectors of change: `python -m benchmarks.detection --help`.

Streams of independent standard Gaussian values whose mean moves; the bets hear their levels among the source's, which
are uniform before the shift. What is stated of each detector with the options below, and what was seen (3 streams of
100,000 stationary values, 50 runs of each shift, two to three minutes of one core):

- Page-Hinkley: no theorem; at most 1 false alarm in 100,000 values, and 1 sigma found within 50. Seen: none; 31 values.
  With the default options, which are for a smaller unit, some 60 in 100,000 were seen.
- ADWIN: at each check the probability of a false alarm is at most delta, so at most 6.25 in 100,000 values; 1 sigma
  found within 100. Seen: none, for its bound is far from tight; 56 values, a multiple of the clock.
- Betting: the probability of ever a false alarm is at most alpha, 0.01; 1 sigma found within 100. Seen: none; 62
  values, but 407 after 100,000 stationary ones.
- Betting with restarts: at least 1,000,000 values from one false alarm to the next in the mean; 1 sigma found within
  75. Seen: none; 44 values, and 37 after 100,000.

An update cost 43 (ADWIN), 66 (Page-Hinkley) and 95 (bets) microseconds.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from adapters.monitors import adwin, betting, page_hinkley
from adapters.monitors.adwin import AdwinOptions
from adapters.monitors.betting import BettingOptions
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.options import Options
from adapters.values import Verdict

PAGE_HINKLEY = PageHinkleyOptions(tolerance=0.25, threshold=25.0, forgetting=1.0)
"""For signals of unit variance. The defaults are for a smaller unit, and forgetting makes long streams raise alarms."""
ADWIN = AdwinOptions()
BETTING = BettingOptions()
RESTARTS = BettingOptions(restarts=True, alpha=1e-6)
UNIFORM = torch.linspace(0, 1, 1001)
"""Quantiles of a source whose entropies are their own levels."""

SHIFTS = (0.5, 1.0, 2.0)
USUAL = 1.0
"""The shift whose delay is stated."""
BEFORE, AFTER = 1000, 1000
"""Stationary values before a shift, and shifted values within which it is found or not."""
SHOWN = 100_000
LEAST_FOUND = 0.95
COSTED = 2000


@dataclass(frozen=True)
class Subject:
    """A detector with its options, and what is stated of it.

    Attributes:
        init: Makes its state before any value.
        update: Takes in a value ().
        options: As shown beside the figures.
        stated: False alarms in a stream of so many stationary values, at most, in the mean.
        delay: Values until a shift of one sigma is found, at most, in the median.
        levels: Whether it takes levels among the source's values in the place of the values.
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
    """What was measured of a detector; a delay is in values, or None where the shift was not found.

    Attributes:
        name: The detector.
        values: Stationary values in each long stream.
        alarms: False alarms in each long stream.
        delays: Of each run, by the shift in sigmas.
        late: Delays of a shift of one sigma after each long stream.
        microseconds: Median cost of an update.
    """

    name: str
    values: int
    alarms: Sequence[int]
    delays: dict[float, list[int | None]]
    late: Sequence[int | None]
    microseconds: float

    @property
    def stated(self) -> float:
        """False alarms in all long streams that are stated at most, in the mean."""
        return len(self.alarms) * SUBJECTS[self.name].stated(self.values)

    @property
    def passes(self) -> bool:
        """Whether both statements hold, false alarms within two standard errors of a count."""
        usual, share = summary(self.delays[USUAL])
        quiet = sum(self.alarms) <= self.stated + 2 * math.sqrt(self.stated)
        return quiet and usual is not None and usual <= SUBJECTS[self.name].delay and share >= LEAST_FOUND


def summary(delays: Sequence[int | None]) -> tuple[float | None, float]:
    """Return the median delay where the shift was found, and the share of runs in which it was."""
    found = [delay for delay in delays if delay is not None]
    return (median(found) if found else None), len(found) / len(delays)


def normal(seed: int, before: int, shift: float) -> Tensor:
    """Return standard Gaussian values, float32, whose mean moves after some of them."""
    values = torch.randn(before + AFTER, generator=torch.Generator().manual_seed(seed))
    values[before:] += shift
    return values


def hear(subject: Subject, values: Tensor, before: int) -> tuple[int, int | None]:
    """Return how many alarms a stream raises before its shift, and how soon after the shift the next one."""
    state, alarms = subject.init(), 0
    for index, value in enumerate(torch.special.ndtr(values) if subject.levels else values):
        state, verdict = subject.update(state, value)
        if verdict.changed and index >= before:
            return alarms, index - before + 1
        alarms += verdict.changed
    return alarms, None


def cost(subject: Subject) -> float:
    """Return the median microseconds of an update on stationary values."""
    state, seconds = subject.init(), []
    for value in torch.rand(COSTED, generator=torch.Generator().manual_seed(0)):
        start = time.perf_counter()
        state, _ = subject.update(state, value)
        seconds.append(time.perf_counter() - start)
    return 1e6 * median(seconds)


def measure(name: str, values: int, seeds: int, runs: int, advance: Callable[[int], None]) -> Figures:
    """Measure one detector; `advance` is told of the values heard."""
    subject = SUBJECTS[name]

    def heard(seed: int, before: int, shift: float) -> tuple[int, int | None]:
        found = hear(subject, normal(seed, before, shift), before)
        advance(before + AFTER)
        return found

    delays = {shift: [heard(seeds + run, BEFORE, shift)[1] for run in range(runs)] for shift in SHIFTS}
    long = [heard(seed, values, USUAL) for seed in range(seeds)]
    alarms, late = [alarms for alarms, _ in long], [delay for _, delay in long]
    return Figures(name, values, alarms, delays, late, cost(subject))


def as_table(found: Sequence[Figures]) -> Table:
    """Lay the figures out."""
    title = f"False alarms in {SHOWN:,} stationary values; median delay after {BEFORE:,} (share found in {AFTER:,})"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    late = f"{USUAL:g} σ after {found[0].values:,}"
    for heading in ("detector", "false alarms", "stated", *(f"{shift:g} σ" for shift in SHIFTS), "stated", late, "µs"):
        table.add_column(heading, justify="left" if heading == "detector" else "right")
    table.add_column("verdict")
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
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every figure here.")] = None,
) -> None:
    """Measure false alarms, delays and costs of the detectors of change on made streams."""
    unknown = [name for name in detector if name not in SUBJECTS]
    if unknown:
        raise typer.BadParameter(
            f"no detector {unknown[0]!r}; there are: {'; '.join(SUBJECTS)}", param_hint="--detector"
        )
    each = seeds * (values + AFTER) + len(SHIFTS) * runs * (BEFORE + AFTER)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{len(detector)} detectors", total=len(detector) * each)
        found = [measure(name, values, seeds, runs, lambda heard: progress.advance(task, heard)) for name in detector]
    Console(width=150).print(as_table(found))
    if json_file is not None:
        figures = [
            {**asdict(one), "stated": one.stated, "passes": one.passes, "options": asdict(SUBJECTS[one.name].options)}
            for one in found
        ]
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
