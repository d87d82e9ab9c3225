"""The benefit of grouping many streams' steps: `python -m benchmarks.streams --help`.

Many streams repeatedly send one image each at the same time. They are answered one by one in PyTorch, one by one in the
serving backend, and as on the server: in groups if the server's own measurement finds them faster. The three ways run
in turn; the table shows medians over the rounds.
"""

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
from rich.table import Table
from torch import Tensor

from adapters import SourceImages, create
from adapters.joint_step import Stepped
from benchmarks import report
from benchmarks.machine import machine
from benchmarks.monitoring import hosted
from benchmarks.report import Corruption, Data, JsonFile, Specs
from benchmarks.resnet20 import load_source_model, read_source_images, with_artefacts
from service.models.hosted import Fitted, HostedModel
from service.models.kernels.graphs.cache import Graphs
from service.serving.stream_batching import Groups, Shared
from service.streams.stream import Stream
from service.streams.value import Config, first_value
from service.telemetry.metrics import Telemetry

SPECS = ("source", "unmix_tns", "unmix_tns+lame", "unmix_tns+eata")
LEAST = 4.0
"""Least speedup of the server over single steps in PyTorch."""
LEAST_OF_BACKEND = 0.95
"""Least speedup over single steps in its own backend: 1, minus the noise of the measurement."""
ARTEFACT_IMAGES = 512
"""Source images for the artefacts. Their quality does not matter here."""

Turn: TypeAlias = Callable[[list[Shared]], list[Stepped]]


@dataclass(frozen=True)
class Throughput:
    """Throughput of streams that send at the same time, in images per second.

    Attributes:
        spec: The pipeline.
        backend: The backend of requests with one image.
        eager: Throughput one by one in PyTorch.
        alone: Throughput one by one in `backend`.
        served: Throughput as on the server.
        least: The smallest group; 0 if steps are not grouped.
        apart: The largest difference of a probability from single steps in PyTorch.
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
        """The server's speedup over single steps in PyTorch."""
        return self.served / self.eager

    @property
    def times_alone(self) -> float:
        """The server's speedup over single steps in the backend; 1 if steps are not grouped, so that both are equal."""
        return self.served / self.alone if self.least else 1.0

    @property
    def passes(self) -> bool:
        """Whether both speedups reach their bounds."""
        return self.times_eager >= LEAST and self.times_alone >= LEAST_OF_BACKEND


def load(data: Path, specs: Sequence[str], graphs: Graphs | None) -> HostedModel:
    """Return the network as a hosted model, with the specs' source artefacts if there are source images."""
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
    """Serve S streams that each send one of the images (S, C, H, W), in the three ways in turn."""
    fitted, xs = model.fit(spec, {}), list(torch.split(images, 1))
    streams = [Stream(str(n), first_value(Config(model, fitted))) for n in range(len(xs))]
    turns = _turns(fitted, Groups(len(xs), Telemetry()))
    apart, seconds = 0.0, {name: list[float]() for name in turns}
    for number in range(repetitions + 1):
        requests = [Shared(stream, x) for stream, x in zip(streams, xs, strict=True)]
        answers = {}
        for name, turn in turns.items():
            began = perf_counter()
            answers[name] = turn(requests)
            if number:  # the first round measures the benefit of grouping, and warms up
                seconds[name].append(perf_counter() - began)
        apart = max(apart, *(_difference(answers[name], answers["eager"]) for name in turns))
        for stream, (_, after) in zip(streams, answers["eager"], strict=True):  # all ways continue from the same states
            state = replace(stream.current.state, adapter=after)
            stream.current = stream.current.with_state(state)
        advance()
    rates = {name: len(xs) / median(each) for name, each in seconds.items()}
    joined = fitted.kernels.joined.get(1)
    return Throughput(spec, _backend(fitted), **rates, least=0 if joined is None else joined.least, apart=apart)


def _turns(fitted: Fitted, groups: Groups) -> dict[str, Turn]:
    """Return the three ways to take all streams' steps."""

    def eager(requests: list[Shared]) -> list[Stepped]:
        step, prepared = fitted.adapter.step, fitted.prepared
        return [step(prepared, each.stream.current.state.adapter, each.x) for each in requests]

    def alone(requests: list[Shared]) -> list[Stepped]:
        return [fitted.step(each.stream.current.state.adapter, each.x) for each in requests]

    def served(requests: list[Shared]) -> list[Stepped]:
        if groups.kind(requests[0]) is not None:
            groups.take(requests)
        return [each.step(each.stream.current.state.adapter, each.x) for each in requests]

    return {"eager": eager, "alone": alone, "served": served}


def _difference(one: list[Stepped], other: list[Stepped]) -> float:
    pairs = zip(one, other, strict=True)
    return max(float((a.probabilities - b.probabilities).abs().max()) for (a, _), (b, _) in pairs)


def _backend(fitted: Fitted) -> str:
    """Return the backend of steps with one image."""
    return "torch" if fitted.kernels.graph.least > 1 else fitted.backend


def main(
    data: Data,
    spec: Specs = list(SPECS),  # noqa: B006
    corruption: Corruption = "brightness",
    streams: Annotated[int, typer.Option(min=1, help="Streams that send at the same time.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime.")] = 2,
    compiled: Annotated[bool, typer.Option(help="Serve with compiled graphs where there are any.")] = True,
    graphs: Annotated[Path | None, typer.Option(help="Folder to keep the compiled graphs in.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure the throughput of many streams in images per second, one by one and in groups as on the server."""
    torch.set_num_threads(threads)
    stored = torch.from_numpy(np.load(data / f"{corruption}.npy")[:streams]).permute(0, 3, 1, 2)
    images = (stored.repeat(-(-streams // len(stored)), 1, 1, 1)[:streams] / 255).contiguous()
    found = []
    with report.progress() as progress, tempfile.TemporaryDirectory() as temporary:
        task = progress.add_task("specs", total=len(spec) * (repetitions + 1))
        model = load(data, spec, Graphs(graphs or Path(temporary), threads, spec) if compiled else None)
        for each in spec:
            found += [measure(model, each, images, repetitions, lambda: progress.advance(task))]
    about = machine(threads)
    rows = [{**asdict(each), "times_eager": each.times_eager, "times_alone": each.times_alone} for each in found]
    figures = {"machine": about, "streams": streams, "figures": rows}
    report.write(as_table(found, streams, about), width=110, figures=figures, json_file=json_file)


def as_table(found: list[Throughput], streams: int, about: Mapping[str, str]) -> Table:
    """Return the figures as a table."""
    caption = ", ".join(f"{name} {value}" for name, value in about.items())
    title = f"Images per second of {streams} streams that each send one image at the same time"
    headings = ("spec", "runs on", "PyTorch", "backend", "served", "/ PyTorch", "/ backend", "together", "verdict")
    table = report.new_table(title, headings, ("spec", "verdict"), caption)
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
