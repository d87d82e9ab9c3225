"""The cost of an image in batches of 1, 2, 4, up to 256: `python -m benchmarks.batches --help`.

For each batch size, the steps of all specs and the plain PyTorch forward pass run in turn. The tables show the medians
per image, and their ratios to the forward pass of the same batch. Small batches show the fixed cost of a step, large
ones the cost per image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, TypeAlias

import torch
import typer
from rich.table import Table

from adapters import SourceImages
from benchmarks import report
from benchmarks.cost import Cost, Network, Subject, Workload, frozen, graphs_made, measure, subjects_of, workload
from benchmarks.machine import machine
from benchmarks.report import Data, JsonFile, Specs
from benchmarks.resnet20 import with_artefacts
from service.offline.evaluation.pipelines import read_pipeline

SPECS = ("source", "unmix_tns", "batch", "batch+tent", "unmix_tns+eata")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ARTEFACT_IMAGES = 512
"""Source images for the artefacts. Their quality does not matter here."""

Costs: TypeAlias = Mapping[int, list[Cost]]
"""Costs by batch size."""


def calibrated(sent: Workload, specs: Sequence[str]) -> Workload:
    """Return a workload with the source artefacts of all specs, so that they are made once and not for every size."""
    if sent.images is None:
        return sent
    few = SourceImages(sent.images.images[:ARTEFACT_IMAGES], sent.images.labels[:ARTEFACT_IMAGES])
    source = sent.source
    for spec in specs:
        source = with_artefacts(source, read_pipeline(spec), few)
    return replace(sent, source=source, images=None)


def subjects_by_size(
    sent: Workload, sizes: Sequence[int], specs: Sequence[str], share: float, threads: int, advance: Callable[[], None]
) -> dict[int, list[Subject]]:
    """Return the subjects to time at each batch size, the plain forward pass first; `advance` is called per spec."""
    graph_of = graphs_made(threads)
    found = {}
    for size in sizes:
        part = replace(sent, x=sent.x[:size])
        found[size] = [frozen(part.source, part.x)]
        for spec in specs:
            found[size] += subjects_of(spec, part, share, graph_of)
            advance()
    return found


@dataclass(frozen=True)
class Row:
    """A spec on a backend, with its costs by batch size. Sizes that its graph does not support are missing."""

    spec: str
    backend: str
    costs: Mapping[int, Cost]


def rows_of(costs: Costs) -> list[Row]:
    """Group the costs of all sizes by spec and backend."""
    found: dict[tuple[str, str], dict[int, Cost]] = {}
    for size, each in costs.items():
        for cost in each:
            found.setdefault((cost.spec, cost.backend), {})[size] = cost
    return [Row(*name, mine) for name, mine in found.items()]


def main(
    data: Data,
    specs: Specs = list(SPECS),  # noqa: B006
    size: Annotated[list[int], typer.Option(min=1, max=256, help="Images per step; repeat.")] = list(SIZES),  # noqa: B006
    network: Annotated[
        Network,
        typer.Option(help="The CIFAR ResNet-20, or an untrained MobileNet at 224, where 256 images take gigabytes."),
    ] = "resnet20",
    corruption: Annotated[str, typer.Option(help="Corruption whose images are sent to the ResNet.")] = "gaussian_noise",
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the images that filtering learners learn from.")
    ] = 0.3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime.")] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Repetitions; the tables show medians.")] = 25,
    json_file: JsonFile = None,
) -> None:
    """Measure the cost of an image by batch size, in PyTorch and compiled, relative to the frozen forward pass."""
    torch.set_num_threads(threads)
    sizes = sorted(set(size))
    sent = workload(network, data, corruption, max(sizes))
    if len(sent.x) < max(sizes):
        raise typer.BadParameter(f"there are {len(sent.x)} images of {corruption}, fewer than {max(sizes)}")
    costs = {}
    with report.progress() as progress:
        making = progress.add_task("preparing", total=len(sizes) * len(specs))
        subjects = subjects_by_size(
            calibrated(sent, specs), sizes, specs, share, threads, lambda: progress.advance(making)
        )
        task = progress.add_task("steps", total=(repetitions + 1) * sum(map(len, subjects.values())))
        for images, mine in subjects.items():
            measure(mine, 1, lambda: progress.advance(task))
            costs[images] = measure(mine, repetitions, lambda: progress.advance(task))
    about = {"network": network, "repetitions": str(repetitions), **machine(threads)}
    written = [{"images": images, **asdict(cost)} for images, each in costs.items() for cost in each]
    report.write(*as_tables(costs, about), width=120, figures={**about, "costs": written}, json_file=json_file)


def as_tables(costs: Costs, about: Mapping[str, str]) -> tuple[Table, Table]:
    """Return the costs as two tables: milliseconds per image, and ratios."""
    rows = rows_of(costs)
    times = _table("Milliseconds per image, by images per step", rows, list(costs), _milliseconds)
    ratios = _table("Cost of a step, in frozen forward passes of the same batch", rows, list(costs), _ratio)
    ratios.caption = "\n".join([*_selections(rows), report.lines_of(about)])
    return times, ratios


def _table(title: str, rows: list[Row], sizes: list[int], cell: Callable[[Cost, int], str]) -> Table:
    table = report.new_table(title, ("spec", "backend", *map(str, sizes)), ("spec", "backend"))
    for row in rows:
        cells = [cell(row.costs[size], size) if size in row.costs else "-" for size in sizes]
        table.add_row(row.spec, row.backend, *cells)
    return table


def _selections(rows: list[Row]) -> list[str]:
    """Return a line for each learner that selects images: the shares that it learned from, by size."""
    lines = []
    for row in rows:
        shares = [f"{100 * cost.selected:.0f}" for cost in row.costs.values() if cost.selected is not None]
        lines += [f"{row.spec}, {row.backend}, learned from {', '.join(shares)} % of the images"] if shares else []
    return lines


def _milliseconds(cost: Cost, images: int) -> str:
    return f"{cost.milliseconds / images:.2f}"


def _ratio(cost: Cost, images: int) -> str:  # noqa: ARG001 - the form of a cell
    return f"{cost.ratio:.2f}"


if __name__ == "__main__":
    typer.run(main)
