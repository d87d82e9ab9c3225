"""Costs and savings of bfloat16: `python -m benchmarks.precision --help`.

The same stream of corrupted images runs through each spec in float32 and in bfloat16, batch by batch in turn, each with
its own state. The table shows the median processor times of a step, both errors, and the share of equal answers.
"""

from dataclasses import asdict, dataclass
from statistics import median
from time import process_time
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor

from adapters import SourceModel, create
from adapters.precision import PRECISIONS
from benchmarks import report
from benchmarks.machine import machine
from benchmarks.report import Corruption, Data, JsonFile, Specs
from benchmarks.resnet20 import labelled_images, load_source_model

SPECS = ("source", "batch", "ema", "unmix_tns", "batch+tent", "unmix_tns+eta")


@dataclass(frozen=True)
class Halved:
    """A spec in both precisions: milliseconds of a step, errors in %, and equal labels in %."""

    spec: str
    milliseconds: float
    half_milliseconds: float
    error: float
    half_error: float
    equal: float


def measure(spec: str, source: SourceModel, images: Tensor, labels: Tensor, batch: int) -> Halved:
    """Run a spec over images (N, C, H, W) in both precisions."""
    adapters = [create(spec, precision=precision) for precision in PRECISIONS]
    fits = [adapter.prepare(source) for adapter in adapters]
    states = [adapter.init(fit) for adapter, fit in zip(adapters, fits, strict=True)]
    seconds: list[list[float]] = [[] for _ in PRECISIONS]
    answers: list[list[Tensor]] = [[] for _ in PRECISIONS]
    for x in torch.split(images, batch):
        for number, (adapter, fit) in enumerate(zip(adapters, fits, strict=True)):
            began = process_time()
            output, states[number] = adapter.step(fit, states[number], x)
            seconds[number].append(process_time() - began)
            answers[number].append(output.probabilities.argmax(1))
    times = [1000 * median(each) for each in seconds]
    first, second = (torch.cat(each) for each in answers)
    errors = [100 * float((each != labels).float().mean()) for each in (first, second)]
    return Halved(spec, times[0], times[1], errors[0], errors[1], 100 * float((first == second).float().mean()))


def main(
    data: Data,
    specs: Specs = list(SPECS),  # noqa: B006
    corruption: Corruption = "gaussian_noise",
    images: Annotated[int, typer.Option(min=1, help="Images sent.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Compare bfloat16 with float32 on the CIFAR ResNet-20: time, and error on corrupted images."""
    torch.set_num_threads(threads)
    source = load_source_model(data / "resnet20.safetensors")
    sent, labels = labelled_images(data, corruption, images)
    found = []
    with report.progress() as progress:
        task = progress.add_task("specs", total=len(specs))
        for spec in specs:
            found.append(measure(spec, source, sent, labels, batch))
            progress.advance(task)
    about = {"images": str(len(sent)), "corruption": corruption, "batch": str(batch), **machine(threads)}
    figures = {**about, "halved": [asdict(each) for each in found]}
    report.write(as_table(found, about), width=100, figures=figures, json_file=json_file)


def as_table(found: list[Halved], about: dict[str, str]) -> Table:
    """Return the figures as a table."""
    title = "float32 and bfloat16: processor ms of a step, error in %"
    headings = ("spec", "float32 ms", "bfloat16 ms", "float32 error", "bfloat16 error", "equal labels")
    table = report.new_table(title, headings, caption=report.lines_of(about))
    for each in found:
        times = (f"{each.milliseconds:.1f}", f"{each.half_milliseconds:.1f}")
        table.add_row(each.spec, *times, f"{each.error:.2f}", f"{each.half_error:.2f}", f"{each.equal:.1f} %")
    return table


if __name__ == "__main__":
    typer.run(main)
