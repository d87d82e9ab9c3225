"""The cost of monitoring: `python -m benchmarks.monitoring --help`.

The same batches run in turn through an adapter's bare step and through the server's whole request path (monitors,
guards, and the source model's look at every 20th request). The overhead is the extra processor time over all batches
together, so that the rare look counts with its share. The table shows medians over repetitions.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table
from torch import Tensor

from adapters import AdapterState, SourceModel
from benchmarks import report
from benchmarks.report import Corruption, Data, JsonFile, Specs
from benchmarks.resnet20 import CLASSES, MEAN, STD, load_source_model, read_source_images
from service.models.bundle import read_bundle
from service.models.hosted import Fitted, HostedModel
from service.models.kernels.graphs.cache import Graphs
from service.offline.calibration.measures import entropy
from service.streams import engine
from service.streams.value import Config, first_value

SPECS = ("source", "batch", "ema", "unmix_tns", "batch+tent", "batch+eata")
MOST = 5.0
"""Largest overhead of monitoring, in % of a step."""
PROBE_IMAGES = 500
TOML = f"""name = "resnet20"
licence = "as the weights"
adapter = "ema"

[model]
kind = "torch"
file = "model.safetensors"
factory = "benchmarks.resnet20:ResNet20"

[input]
name = "input"
shape = [3, 32, 32]
mean = {list(MEAN)}
std = {list(STD)}

[classes]
names = {json.dumps([str(number) for number in range(CLASSES)])}
"""


@dataclass(frozen=True)
class Cost:
    """Processor time in milliseconds of a bare step and of the whole path: medians of means over all batches."""

    spec: str
    step: float
    served: float
    overhead: float

    @property
    def passes(self) -> bool:
        """Whether the overhead is at most MOST."""
        return self.overhead <= MOST


def hosted(weights: Path, artefacts: Mapping[str, Tensor], graphs: Graphs | None = None) -> HostedModel:
    """Return the network as a hosted model; with `graphs`, pipelines run compiled if they can."""
    source = replace(load_source_model(weights), artefacts=artefacts)
    with tempfile.TemporaryDirectory() as name:
        return HostedModel(read_bundle(write_bundle(Path(name), weights)), source, graphs)


def write_bundle(folder: Path, weights: Path) -> Path:
    """Write the network as a bundle into an empty folder, and return the folder."""
    shutil.copy(weights, folder / "model.safetensors")
    (folder / "bundle.toml").write_text(TOML)
    return folder


def artefacts_of(data: Path) -> dict[str, Tensor]:
    """Return a probe set and the entropy artefact from a folder's source images; empty if it has none."""
    images = read_source_images(data)
    if images is None:
        return {}
    source: SourceModel = load_source_model(data / "resnet20.safetensors")
    usual = {f"entropy.{name}": tensor for name, tensor in entropy(source, images, lambda _: None).items()}
    probe = {"probe.images": images.images[:PROBE_IMAGES], "probe.labels": images.labels[:PROBE_IMAGES]}
    return {**usual, **probe}


def measure(model: HostedModel, spec: str, images: Tensor, batch: int) -> Cost:
    """Run a spec both ways over the same images (N, C, H, W)."""
    fitted = model.fit(spec, {})
    value = first_value(Config(model, fitted))
    state = _warmed(fitted, images[:batch])
    value = engine.serve(value, images[:batch], wants_source=False, source_check_every=20).value
    stepped = served = 0.0
    for x in torch.split(images, batch):
        began = process_time()
        _, state = fitted.step(state, x)
        between = process_time()
        value = engine.serve(value, x, wants_source=False, source_check_every=20).value
        ended = process_time()
        stepped, served = stepped + between - began, served + ended - between
    batches = -(-len(images) // batch)
    return Cost(spec, 1000 * stepped / batches, 1000 * served / batches, 100 * (served / stepped - 1))


def _warmed(fitted: Fitted, x: Tensor) -> AdapterState:
    """Return the state after one step, which makes PyTorch's first allocations."""
    return fitted.step(fitted.initial(), x)[1]


def main(
    data: Data,
    spec: Specs = list(SPECS),  # noqa: B006
    corruption: Corruption = "brightness",
    images: Annotated[int, typer.Option(min=1, help="Images per repetition.")] = 2560,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 2,
    json_file: JsonFile = None,
) -> None:
    """Measure the overhead of monitors, guards and the source model's looks on a step, on the CIFAR ResNet-20."""
    torch.set_num_threads(threads)
    model = hosted(data / "resnet20.safetensors", artefacts_of(data))
    stored = torch.from_numpy(np.load(data / f"{corruption}.npy")).permute(0, 3, 1, 2)
    sent = (stored.repeat(-(-images // len(stored)), 1, 1, 1)[:images] / 255).contiguous()
    costs = []
    with report.progress() as progress:
        task = progress.add_task("specs", total=len(spec) * repetitions)
        for each in spec:
            runs = []
            for _ in range(repetitions):
                runs.append(measure(model, each, sent, batch))
                progress.advance(task)
            figures = [median(getattr(run, name) for run in runs) for name in ("step", "served", "overhead")]
            costs.append(Cost(each, *figures))
    figures = [asdict(cost) for cost in costs]
    report.write(as_table(costs), width=100, figures=figures, json_file=json_file)


def as_table(costs: list[Cost]) -> Table:
    """Return the costs as a table."""
    title = "Processor milliseconds per batch, without and with monitors and guards"
    table = report.new_table(title, ("spec", "step", "served", "overhead", "verdict"), ("spec", "verdict"))
    for cost in costs:
        figures = (f"{cost.step:.1f}", f"{cost.served:.1f}", f"{cost.overhead:+.1f} %")
        verdict = "passes" if cost.passes else f"above {MOST:g} %"
        table.add_row(cost.spec, *figures, verdict, style="" if cost.passes else "red")
    return table


if __name__ == "__main__":
    typer.run(main)
