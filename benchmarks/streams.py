"""What it brings to serve many streams at once: `python -m benchmarks.streams --help`.

So many streams send one image each, at the same time, again and again. They are answered one by one in PyTorch, one by
one in the backend that serves, and as the server does it: in groups, where what it measures says that these pay. The
three follow each other turn by turn within one run; medians over the rounds are shown.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, TypeAlias

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from adapters import SourceImages, create
from adapters.joint_step import Stepped
from benchmarks.machine import machine
from benchmarks.monitoring import hosted
from benchmarks.resnet20 import load_source_model, read_source_images, with_artefacts
from service.models.graphs.cache import Graphs
from service.models.hosted import Fitted, HostedModel
from service.serving.stream_batching import Groups, Shared
from service.streams.idempotency import RetryLog
from service.streams.stream import Stream, initial_state
from service.telemetry.metrics import Telemetry

SPECS = ("source", "unmix_tns", "unmix_tns+lame", "unmix_tns+eata")
LEAST = 4.0
"""Times the throughput of PyTorch one by one that the server should reach."""
LEAST_OF_BACKEND = 0.95
"""And of its own backend one by one: no less, but for the noise of the measurement."""
ARTEFACT_IMAGES = 512
"""Source images for the artefacts: what they are worth does not matter here."""

Turn: TypeAlias = Callable[[list[Shared]], list[Stepped]]


@dataclass(frozen=True)
class Throughput:
    """Images a second of streams that send at the same time.

    Attributes:
        spec: The pipeline.
        backend: What serves a request of one image.
        eager: One by one in PyTorch.
        alone: One by one in that backend.
        served: As the server does it.
        least: The fewest streams that go together; 0 for none.
        apart: The largest difference of a probability from PyTorch's, one by one.
    """

    spec: str
    backend: str
    eager: float
    alone: float
    served: float
    least: int
    apart: float

    @property
    def times_eager(self) -> float:
        """How many times PyTorch's one by one."""
        return self.served / self.eager

    @property
    def times_alone(self) -> float:
        """How many times the backend's one by one: 1 where nothing goes together, as the server then does just that."""
        return self.served / self.alone if self.least else 1.0

    @property
    def passes(self) -> bool:
        """Whether both are as they should be."""
        return self.times_eager >= LEAST and self.times_alone >= LEAST_OF_BACKEND


def load(data: Path, specs: Sequence[str], graphs: Graphs | None) -> HostedModel:
    """Return the network as the server hosts it, with the source artefacts of some specs where there are images."""
    weights, images = data / "resnet20.safetensors", read_source_images(data)
    source = load_source_model(weights)
    if images is not None:
        few = SourceImages(images.images[:ARTEFACT_IMAGES], images.labels[:ARTEFACT_IMAGES])
        for spec in specs:
            source = with_artefacts(source, create(spec), few)
    return hosted(weights, source.artefacts, graphs)


def measure(
    model: HostedModel, spec: str, images: Tensor, repetitions: int, advance: Callable[[], None] = lambda: None
) -> Throughput:
    """Serve streams that send one of the images (S, C, H, W) each, in the three ways, turn by turn."""
    fitted, xs = model.fit(spec, {}), list(torch.split(images, 1))
    streams = [Stream(str(n), model, fitted, initial_state(model, fitted), RetryLog(0, 0)) for n in range(len(xs))]
    turns = _turns(fitted, Groups(len(xs), Telemetry()))
    apart, seconds = 0.0, {name: list[float]() for name in turns}
    for number in range(repetitions + 1):
        requests = [Shared(stream, x) for stream, x in zip(streams, xs, strict=True)]
        answers = {}
        for name, turn in turns.items():
            began = perf_counter()
            answers[name] = turn(requests)
            if number:  # the first round measures the gain, and warms up
                seconds[name].append(perf_counter() - began)
        apart = max(apart, *(_apart(answers[name], answers["eager"]) for name in turns))
        for stream, (_, after) in zip(streams, answers["eager"], strict=True):  # all go on from the same states
            stream.state = replace(stream.state, adapter=after)
        advance()
    rates = {name: len(xs) / median(each) for name, each in seconds.items()}
    gain = fitted.gains.get(1)
    return Throughput(spec, _backend(fitted), **rates, least=0 if gain is None else gain.least, apart=apart)


def _turns(fitted: Fitted, groups: Groups) -> dict[str, Turn]:
    """Return the three ways to take all streams' steps."""

    def eager(requests: list[Shared]) -> list[Stepped]:
        step, prepared = fitted.adapter.step, fitted.prepared
        return [step(prepared, each.stream.state.adapter, each.x) for each in requests]

    def alone(requests: list[Shared]) -> list[Stepped]:
        return [fitted.step(each.stream.state.adapter, each.x) for each in requests]

    def served(requests: list[Shared]) -> list[Stepped]:
        if groups.kind(requests[0]) is not None:
            groups.take(requests)
        return [each.step(each.stream.state.adapter, each.x) for each in requests]

    return {"eager": eager, "alone": alone, "served": served}


def _apart(one: list[Stepped], other: list[Stepped]) -> float:
    pairs = zip(one, other, strict=True)
    return max(float((a.probabilities - b.probabilities).abs().max()) for (a, _), (b, _) in pairs)


def _backend(fitted: Fitted) -> str:
    """Return what takes the step of one image."""
    return fitted.backend if fitted.graph is None or fitted.graph.least_images == 1 else "torch"


def main(
    data: Annotated[
        Path, typer.Option(envvar="ACCLIMATE_CIFAR10C", exists=True, help="Folder of `benchmarks.cifar10c`.")
    ],
    spec: Annotated[list[str], typer.Option(help="Specs; repeat.", show_default=False)] = list(SPECS),  # noqa: B006
    corruption: Annotated[str, typer.Option(help="Corruption whose images are sent.")] = "brightness",
    streams: Annotated[int, typer.Option(min=1, help="Streams that send at the same time.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="Of which the median is shown.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime.")] = 2,
    compiled: Annotated[bool, typer.Option(help="Serve by compiled graphs, where there are.")] = True,
    graphs: Annotated[Path | None, typer.Option(help="Folder to keep the compiled graphs in; else made anew.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure how many images a second many streams get, one by one and as the server takes them together."""
    torch.set_num_threads(threads)
    stored = torch.from_numpy(np.load(data / f"{corruption}.npy")[:streams]).permute(0, 3, 1, 2)
    images = (stored.repeat(-(-streams // len(stored)), 1, 1, 1)[:streams] / 255).contiguous()
    found = []
    with Progress(console=Console(stderr=True)) as progress, tempfile.TemporaryDirectory() as temporary:
        task = progress.add_task("specs", total=len(spec) * (repetitions + 1))
        model = load(data, spec, Graphs(graphs or Path(temporary), threads, spec) if compiled else None)
        for each in spec:
            found += [measure(model, each, images, repetitions, lambda: progress.advance(task))]
    about = machine(threads)
    Console(width=110).print(as_table(found, streams, about))
    if json_file is not None:
        figures = [{**asdict(each), "times_eager": each.times_eager, "times_alone": each.times_alone} for each in found]
        json_file.write_text(json.dumps({"machine": about, "streams": streams, "figures": figures}, indent=1) + "\n")


def as_table(found: list[Throughput], streams: int, about: Mapping[str, str]) -> Table:
    """Lay the figures out."""
    caption = ", ".join(f"{name} {value}" for name, value in about.items())
    title = f"Images a second of {streams} streams that send one image each, at the same time"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    for name in ("spec", "runs on", "PyTorch", "backend", "served", "/ PyTorch", "/ backend", "together", "verdict"):
        table.add_column(name, justify="left" if name in ("spec", "verdict") else "right")
    for each in found:
        figures = (f"{each.eager:.0f}", f"{each.alone:.0f}", f"{each.served:.0f}")
        ratios = (f"{each.times_eager:.1f}", f"{each.times_alone:.2f}")
        together = f"from {each.least} on" if each.least else "no"
        verdict = "passes" if each.passes else f"below {LEAST:g} or {LEAST_OF_BACKEND:g}"
        row = (each.spec, each.backend, *figures, *ratios, together, verdict)
        table.add_row(*row, style="" if each.passes else "red")
    return table


if __name__ == "__main__":
    typer.run(main)
