"""Errors with a network's running statistics and with its reference statistics.

`python -m benchmarks.reference_statistics --help`. The subject is CIFAR-10-C with a public ResNet-20, or PACS with
EfficientNet-Lite0 and a head trained on photographs. Each spec runs one continual stream over all domains in fair order
(shuffled) and in label-correlated order.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table

from adapters import SourceModel
from adapters.errors import AdapterError
from adapters.network.reference_pass import measure_reference
from adapters.network.reference_statistics import running_statistics_distance, with_reference
from adapters.source import USUAL_BATCH
from benchmarks import cifar10c, pacs, report
from benchmarks.pacs import Subject
from benchmarks.resnet20 import load_source_model, read_source_images, with_artefacts
from service.offline.evaluation.data import Domains, in_memory
from service.offline.evaluation.layouts import CIFAR10C
from service.offline.evaluation.pipelines import read_pipeline
from service.offline.evaluation.protocols import Plan, PlanSettings, make_plan
from service.offline.evaluation.runs import run

SPECS = (
    "source", "batch", "alpha", "ema", "rotta_bn", "note_iabn", "unmix_tns", "note_iabn+lame,note_iabn.shared=running",
    "batch+tent", "batch+eta", "batch+roid", "rotta_bn+eta", "auto",
)  # fmt: skip
PROTOCOLS = {"fair": "continual", "correlated": "correlated"}
WIDTH = 100


@dataclass(frozen=True)
class Result:
    """A spec's error in % in one order: with running statistics, and with the reference statistics."""

    spec: str
    order: str
    running: float
    reference: float


def cifar(data: Path) -> Subject:
    """Return ResNet-20 with the folder's training images and its 15 corruptions."""
    source, images, folder = (
        load_source_model(data / "resnet20.safetensors"),
        read_source_images(data),
        cifar10c.read_folder(data),
    )
    if images is None:
        raise typer.BadParameter(f"{data} has no source_images.npy, which the reference statistics are measured on")
    pixels = np.split(folder.images.numpy().transpose(0, 3, 1, 2), len(CIFAR10C))
    domains = {name: in_memory(part, folder.labels.numpy()) for name, part in zip(CIFAR10C, pixels, strict=True)}
    return Subject(source, images, Domains(domains), float("nan"))


def measured_on(subject: Subject, images: int) -> SourceModel:
    """Return the model with reference statistics of its first `images` source images."""
    batches = (x for x, _ in replace(subject.images, images=subject.images.images[:images]).batches(USUAL_BATCH))
    return with_reference(subject.source, measure_reference(subject.source, batches))


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of `benchmarks.cifar10c`, or PACS as `photo/dog/*.jpg` and so on.",
        ),
    ],
    spec: report.Specs = list(SPECS),  # noqa: B006 - typer never writes to it
    order: Annotated[list[str], typer.Option(help="fair or correlated; repeat.", show_default=False)] = list(PROTOCOLS),  # noqa: B006 - as above
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = USUAL_BATCH,
    images: Annotated[int, typer.Option(min=2, help="Most source images that the statistics are measured on.")] = 2000,
    limit: Annotated[int, typer.Option(min=0, help="Use only the first images of each domain; 0 for all.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 1,
    json_file: report.JsonFile = None,
) -> None:
    """Measure each spec's error with the network's running statistics and with measured reference statistics."""
    torch.set_num_threads(threads)
    unknown = [name for name in order if name not in PROTOCOLS]
    if unknown:
        raise typer.BadParameter(f"there is no order {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    subject = pacs.load(data) if (data / pacs.SOURCE).is_dir() else cifar(data)
    if limit:
        subject = replace(subject, domains=subject.domains.first(limit))
    measured = measured_on(subject, images)
    about = {
        "data": data.name,
        "images": str(min(images, len(subject.images.images))),
        "running_statistics_distance": f"{running_statistics_distance(measured):.3f}",
        "source_error": f"{subject.source_error:.1f} %",
        "batch": str(batch),
        "torch": torch.__version__,
    }
    try:
        results = list(_measure(subject, measured, spec, order, batch))
    except AdapterError as error:
        raise typer.BadParameter(str(error)) from None
    figures = {**about, "limit": limit, "results": [asdict(each) for each in results]}
    report.write(as_table(results, report.lines_of(about)), width=WIDTH, figures=figures, json_file=json_file)


def as_table(results: list[Result], caption: str = "") -> Table:
    """Return the results as a table."""
    headings = ("spec", "order", "running", "reference", "difference")
    table = report.new_table("Error in %, continual", headings, ("spec", "order"), caption)
    for each in results:
        difference = f"{each.reference - each.running:+.2f}"
        table.add_row(each.spec, each.order, f"{each.running:.2f}", f"{each.reference:.2f}", difference)
    return table


def _measure(
    subject: Subject, measured: SourceModel, specs: list[str], orders: list[str], batch: int
) -> Iterator[Result]:
    plans = {order: make_plan(PROTOCOLS[order], subject.domains, PlanSettings(), 0) for order in orders}
    with report.progress() as progress:
        task = progress.add_task("", total=sum(2 * len(plan.items) * len(specs) for plan in plans.values()))
        for text in specs:
            for order, plan in plans.items():
                progress.update(task, description=f"{text} ({order})")
                advance = partial(progress.advance, task)
                running, reference = (
                    _error(subject, model, text, plan, batch, advance) for model in (subject.source, measured)
                )
                progress.console.print(f"{text} ({order}): {running:.2f} -> {reference:.2f}")
                yield Result(text, order, running, reference)


def _error(
    subject: Subject, model: SourceModel, text: str, plan: Plan, batch: int, advance: Callable[[int], None]
) -> float:
    adapter = read_pipeline(text)
    ready = with_artefacts(model, adapter, subject.images, USUAL_BATCH)
    return run(adapter, ready, subject.domains, plan, batch, advance).error


if __name__ == "__main__":
    app()
