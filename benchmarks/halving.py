"""Savings and costs of storing states in half precision: `python -m benchmarks.halving --help`.

The same stream of corrupted images runs through each spec twice: once unchanged, and once with the state stored in half
precision after each batch, which is more often than on any server. The table shows the sizes of both stored states,
both errors, and the share of equal answers.
"""

from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor

from adapters import SourceModel, create
from adapters.state import flatten, rebuild
from benchmarks import report
from benchmarks.machine import machine
from benchmarks.report import Corruption, Data, JsonFile, Specs
from benchmarks.resnet20 import labelled_images, load_source_model
from service.storage.snapshots.half_precision import halved, widened

SPECS = ("ema", "unmix_tns", "batch+tent", "unmix_tns+eta", "rotta", "cotta")


@dataclass(frozen=True)
class Rested:
    """A spec without and with half precision: sizes of the state in bytes, errors in %, and equal labels in %."""

    spec: str
    size: int
    half_size: int
    error: float
    half_error: float
    equal: float


def measure(spec: str, source: SourceModel, images: Tensor, labels: Tensor, batch: int) -> Rested:
    """Run a spec over images (N, C, H, W), unchanged and with its state in half precision after each batch."""
    adapter = create(spec)
    fit = adapter.prepare(source)
    state = half_state = adapter.init(fit)
    answers: tuple[list[Tensor], list[Tensor]] = ([], [])
    sizes = (0, 0)
    for x in torch.split(images, batch):
        output, state = adapter.step(fit, state, x)
        half_output, half_state = adapter.step(fit, half_state, x)
        for labels_so_far, answer in zip(answers, (output, half_output), strict=True):
            labels_so_far.append(answer.probabilities.argmax(1))
        whole = flatten(half_state)
        half = halved(whole)
        sizes = (_bytes(whole), _bytes(half))
        half_state = rebuild(half_state, widened(half, whole))
    first, second = (torch.cat(each) for each in answers)
    errors = [100 * float((each != labels).float().mean()) for each in (first, second)]
    return Rested(spec, *sizes, errors[0], errors[1], 100 * float((first == second).float().mean()))


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def main(
    data: Data,
    specs: Specs = list(SPECS),  # noqa: B006
    corruption: Corruption = "gaussian_noise",
    images: Annotated[int, typer.Option(min=1, help="Images sent.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 2,
    json_file: JsonFile = None,
) -> None:
    """Measure states stored in half precision on the CIFAR ResNet-20: sizes, and errors on corrupted images."""
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
    figures = {**about, "rested": [asdict(each) for each in found]}
    report.write(as_table(found, about), width=100, figures=figures, json_file=json_file)


def as_table(found: list[Rested], about: dict[str, str]) -> Table:
    """Return the figures as a table."""
    title = "States stored in half precision after each batch"
    headings = ("spec", "bytes", "halved", "error", "error, halved", "equal labels")
    table = report.new_table(title, headings, caption=report.lines_of(about))
    for each in found:
        sizes = (f"{each.size:,}", f"{each.half_size:,}")
        table.add_row(each.spec, *sizes, f"{each.error:.2f} %", f"{each.half_error:.2f} %", f"{each.equal:.1f} %")
    return table


if __name__ == "__main__":
    typer.run(main)
