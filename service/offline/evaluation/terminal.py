"""Terminal output of the evaluation commands: progress bars, tables and files."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adapters import SourceModel
from service.models.bundle import Bundle
from service.offline.evaluation import report
from service.offline.evaluation.comparison import Cell, Schedule, compare
from service.offline.evaluation.data import Domains
from service.offline.evaluation.processes import BundleModel
from service.settings import available_cores

LOG_WIDTH = 120
"""Width of the tables, in characters, if the output is not a terminal."""


@dataclass(frozen=True)
class Subject:
    """The model to evaluate: its bundle, a loader for other processes, and the source model."""

    bundle: Bundle
    load: BundleModel
    source: SourceModel


def measured(subject: Subject, domains: Domains, runs: Schedule, jobs: int | None, console: Console) -> list[Cell]:
    """Make all runs in `jobs` processes (None for one per core), with a progress bar."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f"{len(runs.tasks)} runs", total=runs.images)
        return compare(
            subject.load, domains, runs, jobs or available_cores(), lambda images: progress.advance(bar, images)
        )


def show(cells: list[Cell], console: Console, by_domain: bool) -> None:
    """Print a comparison's table, tables by domain if requested, and notes on its specs."""
    console.print(report.as_table(cells))
    if by_domain:
        for column in dict.fromkeys((cell.protocol, cell.batch) for cell in cells):
            mine = [cell for cell in cells if (cell.protocol, cell.batch) == column]
            if any(cell.runs for cell in mine):
                console.print(report.domains_table(mine))
    for note in report.notes(cells):
        console.print(f"- {note}", highlight=False, markup=False)


def write(file: Path | None, text: str, console: Console) -> None:
    """Write a file and print its name; None writes nothing."""
    if file is not None:
        file.write_text(text, encoding="utf-8")
        console.print(f"wrote {file}", highlight=False)


def open_console() -> Console:
    """Return a console; if the output is not a terminal, it is LOG_WIDTH characters wide."""
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console
