"""The evidence for `auto`, compared with the frozen model and single specs: `python -m benchmarks.selection --help`.

It runs CIFAR-10-C under every protocol and several batch sizes. The rules of `auto` were chosen on the five corruptions
in `TUNING`; by default the other ten are used here. A row passes if the error of `auto` is at most the frozen model's
plus 1 point (or 2 standard errors), and at most the best single spec's plus 2 points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters import SourceModel
from benchmarks import report
from benchmarks.report import Data
from benchmarks.resnet20 import CLASSES, load_source_model, read_source_images, with_artefacts
from service.offline.evaluation.comparison import Cell, compare, schedule
from service.offline.evaluation.layouts import CIFAR10C, Wanted, read_data
from service.offline.evaluation.pipelines import read_pipeline
from service.offline.evaluation.protocols import PlanSettings, make_plan
from service.types import InputSpec

TUNING = ("gaussian_noise", "motion_blur", "snow", "contrast", "pixelate")
REPORTING = tuple(name for name in CIFAR10C if name not in TUNING)
PROTOCOLS = ("reset", "continual", "gradual", "mixed", "correlated", "long")
SINGLE = (
    "source",
    "batch",
    "alpha",
    "ema",
    "rotta_bn,rotta_bn.alpha=0.8,rotta_bn.full_batch=64",
    "note_iabn,note_iabn.shared=running,note_iabn.momentum=0.1,note_iabn.full_batch=64",
    "unmix_tns",
    "source+lame,lame.kernel=knn",
    "unmix_tns+lame,lame.kernel=knn",
    "batch+eta",
    "batch+roid",
    "batch+rmt",
    "rotta",
    "note",
)
AUTO = "auto"
HARM, LOSS = 1.0, 2.0
"""Points by which the error of `auto` may exceed the frozen model's (HARM) and the best single spec's (LOSS)."""


@dataclass(frozen=True)
class Row:
    """Errors of `auto`, the frozen model and the best single spec under one protocol and batch size."""

    protocol: str
    batch: int
    source: float
    auto: float
    standard_error: float
    best: float
    best_spec: str

    @property
    def passes(self) -> bool:
        """Whether both bounds hold."""
        harmless = self.auto <= self.source + max(HARM, 2 * self.standard_error)
        return harmless and self.auto <= self.best + LOSS


def load(data: Path, artefacts: Mapping[str, Tensor]) -> SourceModel:
    """Return the network of a folder, with source artefacts that were made earlier."""
    return replace(load_source_model(data / "resnet20.safetensors"), artefacts=artefacts)


def made_artefacts(data: Path, specs: Sequence[str], kept: Path | None) -> Mapping[str, Tensor]:
    """Return the source artefacts that the specs need. Read them from `kept` if it exists; else make and store them."""
    if kept is not None and kept.exists():
        return load_file(kept)
    source, images = load_source_model(data / "resnet20.safetensors"), read_source_images(data)
    if images is not None:
        for adapter in map(read_pipeline, specs):
            source = with_artefacts(source, adapter, images)
    if kept is not None:
        unshared = {name: tensor.clone() for name, tensor in source.artefacts.items()}
        save_file(unshared, kept)
    return source.artefacts


def rows(cells: Sequence[Cell]) -> list[Row]:
    """Compare `auto` with the others, per protocol and batch size."""
    found = []
    for mine in (cell for cell in cells if cell.pipeline == AUTO):
        others = [cell for cell in cells if (cell.protocol, cell.batch) == (mine.protocol, mine.batch)]
        single = min((cell for cell in others if cell.pipeline != AUTO), key=lambda cell: cell.error)
        found.append(
            Row(
                protocol=mine.protocol,
                batch=mine.batch,
                source=mine.source_error,
                auto=mine.error,
                standard_error=mine.standard_error,
                best=single.error,
                best_spec=single.pipeline.partition(",")[0],
            )
        )
    return found


def as_table(found: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    title = "Error in %: auto, the frozen model and the best single spec"
    headings = ("protocol", "batch", "source", "auto", "best single", "", "against source", "against best", "verdict")
    table = report.new_table(title, headings, ("protocol", "", "verdict"))
    for row in found:
        error = f"{row.auto:.1f}" + (f" ±{row.standard_error:.1f}" if row.standard_error else "")
        differences = (f"{row.auto - row.source:+.1f}", f"{row.auto - row.best:+.1f}")
        verdict = "passes" if row.passes else "fails"
        table.add_row(
            row.protocol, str(row.batch), f"{row.source:.1f}", error, f"{row.best:.1f}", row.best_spec, *differences,
            verdict, style="" if row.passes else "red",
        )  # fmt: skip
    return table


def as_long_table(cells: Sequence[Cell]) -> Table:
    """Return a table of each spec's error in the first and the last repetition of the domains."""
    title = "Error in %: the first and the last repetition of the same domains"
    table = report.new_table(title, ("spec", "batch", "first", "last", "change", "verdict"), ("spec", "verdict"))
    for cell in (cell for cell in cells if cell.runs and cell.protocol == "long"):
        first, last = (fmean(run.repetitions[end] for run in cell.runs) for end in (0, -1))
        holds = last <= first + HARM
        verdict = "holds out" if holds else "wears out"
        row = (cell.pipeline, str(cell.batch), f"{first:.1f}", f"{last:.1f}", f"{last - first:+.1f}", verdict)
        table.add_row(*row, style="" if holds else "red")
    return table


def main(
    data: Data,
    batch: Annotated[list[int], typer.Option(min=1, help="Images per step; repeat for more.")] = [64],  # noqa: B006
    protocol: Annotated[list[str], typer.Option(help="Protocols; repeat.")] = list(PROTOCOLS),  # noqa: B006
    spec: Annotated[list[str], typer.Option(help="Single specs.", show_default=False)] = list(SINGLE),  # noqa: B006
    domain: Annotated[list[str], typer.Option(help="Corruptions; repeat.")] = list(REPORTING),  # noqa: B006
    images: Annotated[int, typer.Option(min=10, help="Images per corruption.")] = 1000,
    repetitions: Annotated[int, typer.Option(min=2, help="Repetitions of the domains in `long`.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of specs with random draws.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every cell here.")] = None,
    artefacts: Annotated[
        Path | None, typer.Option(help="Safetensors file of source artefacts; it is created if it does not exist.")
    ] = None,
) -> None:
    """Measure `auto`, the frozen model and single specs on CIFAR-10-C under every protocol."""
    wanted = Wanted(domains=tuple(domain), images=images, ramps="gradual" in protocol)
    names = tuple(str(number) for number in range(CLASSES))
    domains = read_data(data, InputSpec("images", (3, 32, 32)), names, wanted)
    specs = (*spec, AUTO)
    loading = partial(load, data, made_artefacts(data, specs, artefacts))
    plans = [make_plan(name, domains, PlanSettings(repetitions=repetitions), 0) for name in protocol]
    runs = schedule(loading(), specs, plans, batch, seeds)
    with report.progress() as progress:
        task = progress.add_task(f"{len(runs.tasks)} runs", total=runs.images)
        cells = compare(loading, domains, runs, jobs, lambda done: progress.advance(task, done))
    tables = [as_table(rows(cells)), *([as_long_table(cells)] if "long" in protocol else [])]
    figures = [
        {"spec": cell.pipeline, "protocol": cell.protocol, "batch": cell.batch, "error": _number(cell.error),
         "standard_error": cell.standard_error, "repetitions": [run.repetitions for run in cell.runs],
         "ms": cell.milliseconds if cell.runs else None, "refusal": cell.refusal}
        for cell in cells
    ]  # fmt: skip
    report.write(*tables, width=140, figures=figures, json_file=json_file)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    typer.run(main)
