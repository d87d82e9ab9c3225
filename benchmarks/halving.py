"""What half precision at rest saves and costs: `python -m benchmarks.halving --help`.

The same stream of corrupted images goes through each spec twice: once as it is, and once as a stream that rests in half
precision after each batch, more often than any server would have it. Shown are the bytes of both states as they are
kept, both errors, and how often the answers differ.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from adapters import SourceModel, create
from adapters.state import flatten, rebuild
from benchmarks.machine import machine
from benchmarks.resnet20 import labelled_images, load_source_model
from service.storage.snapshots.half_precision import halved, widened

SPECS = ("ema", "unmix_tns", "batch+tent", "unmix_tns+eta", "rotta", "cotta")


@dataclass(frozen=True)
class Rested:
    """A spec without rest and with: bytes of the state, errors in per cent, and the share of equal labels."""

    spec: str
    size: int
    half_size: int
    error: float
    half_error: float
    equal: float


def measure(spec: str, source: SourceModel, images: Tensor, labels: Tensor, batch: int) -> Rested:
    """Run a spec over images (N, C, H, W), as it is and with a rest in half precision after each batch."""
    adapter = create(spec)
    fit = adapter.prepare(source)
    state = rested = adapter.init(fit)
    answers: tuple[list[Tensor], list[Tensor]] = ([], [])
    sizes = (0, 0)
    for x in torch.split(images, batch):
        output, state = adapter.step(fit, state, x)
        other, rested = adapter.step(fit, rested, x)
        for given, answer in zip(answers, (output, other), strict=True):
            given.append(answer.probabilities.argmax(1))
        whole = flatten(rested)
        half = halved(whole)
        sizes = (_bytes(whole), _bytes(half))
        rested = rebuild(rested, widened(half, whole))
    first, second = (torch.cat(given) for given in answers)
    errors = [100 * float((each != labels).float().mean()) for each in (first, second)]
    return Rested(spec, *sizes, errors[0], errors[1], 100 * float((first == second).float().mean()))


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def main(
    data: Annotated[
        Path, typer.Option(envvar="ACCLIMATE_CIFAR10C", exists=True, help="Folder of `benchmarks.cifar10c`.")
    ],
    specs: Annotated[list[str], typer.Option(help="Specs; repeat.", show_default=False)] = list(SPECS),  # noqa: B006
    corruption: Annotated[str, typer.Option(help="Corruption whose images are sent.")] = "gaussian_noise",
    images: Annotated[int, typer.Option(min=1, help="Images sent.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure states kept in half precision on the CIFAR ResNet-20: bytes, and error on corrupted images."""
    torch.set_num_threads(threads)
    source = load_source_model(data / "resnet20.safetensors")
    sent, labels = labelled_images(data, corruption, images)
    found = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("specs", total=len(specs))
        for spec in specs:
            found.append(measure(spec, source, sent, labels, batch))
            progress.advance(task)
    about = {"images": str(len(sent)), "corruption": corruption, "batch": str(batch), **machine(threads)}
    Console(width=100).print(as_table(found, about))
    if json_file is not None:
        json_file.write_text(json.dumps({**about, "rested": [asdict(each) for each in found]}, indent=1) + "\n")


def as_table(found: list[Rested], about: dict[str, str]) -> Table:
    """Lay the figures out."""
    caption = "\n".join(f"{name} {value}" for name, value in about.items())
    table = Table(title="A rest in half precision after each batch", caption=caption, box=box.SIMPLE_HEAD)
    for name in ("spec", "bytes", "halved", "error", "error, halved", "equal labels"):
        table.add_column(name, justify="left" if name == "spec" else "right")
    for each in found:
        sizes = (f"{each.size:,}", f"{each.half_size:,}")
        table.add_row(each.spec, *sizes, f"{each.error:.2f} %", f"{each.half_error:.2f} %", f"{each.equal:.1f} %")
    return table


if __name__ == "__main__":
    typer.run(main)
