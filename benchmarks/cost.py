"""What a step costs, in frozen forward passes: `python -m benchmarks.cost --help`.

Every spec steps again and again from one state on one batch, so that each of its rounds does the same work. The rounds
of all specs and of the plain PyTorch forward pass follow each other turn by turn within one run; medians are shown, and
their ratios to the frozen forward's.

What depends on the images is made to happen, and stated: of a learner that filters images, the entropy margin lets a
given share of the batch pass and nothing counts as redundant; CoTTA augments.
"""

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from adapters import SourceImages, SourceModel
from adapters.functional.entropy import entropy_of_probabilities
from adapters.learning.filtered_entropy import FilterOptions
from adapters.pipeline import Fit, Pipeline
from benchmarks.machine import machine
from benchmarks.mobilenet import made_images, mobilenet_source
from benchmarks.monitoring import write_bundle
from benchmarks.resnet20 import load_source_model, read_source_images, with_artefacts
from service.models.bundle import Bundle, read_bundle
from service.models.graphs.cache import Graph, Wanted, made_anew, why_not
from service.models.graphs.step import TRIED, CompiledPass
from service.models.native.background import is_compiled, loaded
from service.models.native.compile import compile_for
from service.models.native.step import NativeStep
from service.models.native_result import Made
from service.offline.evaluation.pipelines import read_pipeline, with_options

EAGER, COMPILED, NATIVE = "eager", "compiled", "native"
MADE_IMAGES = 128
"""Source images of the MobileNet, which artefacts are made from."""
FROZEN = "frozen forward"
MOST: Mapping[tuple[str, str], float] = MappingProxyType(
    {
        ("source", COMPILED): 0.75,
        ("source+lame", COMPILED): 0.8,
        ("batch", COMPILED): 1.1,
        ("ema", COMPILED): 2.0,
        ("unmix_tns", COMPILED): 1.15,
        ("unmix_tns+lame", COMPILED): 1.25,
        ("batch+tent", EAGER): 2.9,
        ("batch+eata", EAGER): 2.9,
        ("batch+tent", NATIVE): 2.0,
        ("batch+eata", NATIVE): 2.0,
        ("unmix_tns+eata", COMPILED): 2.0,
        ("unmix_tns+eata", NATIVE): 2.0,
        ("batch+cotta", NATIVE): 32.0,
    }
)
"""Frozen forward passes that a step may cost, by spec and backend; the specs not named are for comparison."""
SPECS = (
    "source", "source+lame", "batch", "ema", "unmix_tns", "unmix_tns+lame", "batch+tent", "batch+eata",
    "unmix_tns+eata", "batch+cotta",
)  # fmt: skip

Call: TypeAlias = Callable[[], object]
GraphOf: TypeAlias = Callable[[str, Wanted], Graph]
Network: TypeAlias = Literal["resnet20", "mobilenet"]


@dataclass(frozen=True)
class Workload:
    """What steps are taken on: a network, the source images of its artefacts if there are any, and x (N, C, H, W)."""

    source: SourceModel
    images: SourceImages | None
    x: Tensor
    bundle: Bundle


@dataclass(frozen=True)
class Subject:
    """Something to be timed: a spec on a backend, and how it was brought to do its usual work.

    Attributes:
        spec: As it was asked for.
        backend: What runs it.
        selected: Share of the batch that the learner learns from; None where it does not choose.
        options: What was set beyond the spec, as `PART.OPTION` to value.
        run: Takes one step.
    """

    spec: str
    backend: str
    selected: float | None
    options: Mapping[str, str]
    run: Call


@dataclass(frozen=True)
class Cost:
    """Median milliseconds of a step, and how many frozen forward passes that is."""

    spec: str
    backend: str
    milliseconds: float
    ratio: float
    selected: float | None
    options: Mapping[str, str]

    @property
    def most(self) -> float | None:
        """What the ratio may be at most; None if nothing is asked."""
        return MOST.get((self.spec, self.backend))

    @property
    def verdict(self) -> str:
        """`passes`, `above` or, where nothing is asked, `-`."""
        if self.most is None:
            return "-"
        return "passes" if self.ratio <= self.most else f"above {self.most:g}"


def workload(network: Network, data: Path, corruption: str, batch: int) -> Workload:
    """Return a network with as many of the images that are sent to it as there are, at most a batch."""
    weights = data / "resnet20.safetensors"
    with tempfile.TemporaryDirectory() as name:
        bundle = read_bundle(write_bundle(Path(name), weights))
    if network == "mobilenet":
        images, x = made_images(max(batch, MADE_IMAGES)), made_images(batch).images / 255
        return Workload(mobilenet_source(), images, x, bundle)
    stored = torch.from_numpy(np.load(data / f"{corruption}.npy")[:batch]).permute(0, 3, 1, 2)
    return Workload(load_source_model(weights), read_source_images(data), (stored / 255).contiguous(), bundle)


def graphs_made(threads: int) -> GraphOf:
    """Return what makes the graph of a spec, and takes it again where only the options of `_usual` are others."""
    made: dict[str, Graph] = {}

    def graph_of(spec: str, wanted: Wanted) -> Graph:
        if spec not in made:
            made[spec] = made_anew(wanted, threads)[1]
        return _with_options_of(wanted, made[spec])

    return graph_of


def frozen(source: SourceModel, x: Tensor) -> Subject:
    """Return the plain PyTorch forward pass of x (N, C, H, W), which must be in [0, 1] as the specs' inputs."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (source.mean, source.std))
    network = source.network.eval()

    def run() -> object:
        with torch.no_grad():
            return network((x - mean) / std)

    return Subject(FROZEN, EAGER, None, {}, run)


def subjects_of(
    spec: str, sent: Workload, share: float, graph_of: GraphOf | None, *, native: bool = False
) -> list[Subject]:
    """Return the step of a spec on a workload's x, made to learn from a share of it and to augment.

    In PyTorch, and where the pipeline has a graph for so many images also as that runs in ONNX Runtime, unless
    `graph_of` is None; if asked for, one with a gradient also as machine code.
    """
    adapter, source, x = read_pipeline(spec), sent.source, sent.x
    if sent.images is not None:
        source = with_artefacts(source, adapter, sent.images)
    options = _usual(spec, source, x, share)
    adapter = read_pipeline(with_options(spec, options))
    prepared = adapter.prepare(source)
    output, state = adapter.step(prepared, adapter.init(prepared), x)  # makes PyTorch's first allocations
    selected = output.signals.get("selected_ratio")
    if selected is not None:  # learned from the same images again and again, as the step that is timed
        state = adapter.init(prepared)
    learned_from = None if selected is None else float(selected)
    subjects = [Subject(spec, EAGER, learned_from, options, lambda: adapter.step(prepared, state, x))]
    wanted = Wanted(sent.bundle, adapter, prepared, torch.rand(max(TRIED), *source.input_shape))
    if graph_of is not None and not why_not(wanted) and len(x) >= (graph := graph_of(spec, wanted)).least_images:
        subjects.append(Subject(spec, COMPILED, learned_from, options, lambda: graph.step.step(state, x)))
    if native and isinstance(adapter, Pipeline) and isinstance(prepared, Fit) and is_compiled(adapter):
        step = _native(adapter, prepared, len(x), tuple(output.signals))
        subjects.append(Subject(spec, NATIVE, learned_from, options, lambda: step.step(state, x)))
    return subjects


def _native(adapter: Pipeline, prepared: Fit, images: int, signals: tuple[str, ...]) -> Made:
    """Return what takes a pipeline's steps by machine code, which takes a minute to make."""
    with tempfile.TemporaryDirectory() as name:
        compile_for(adapter, prepared, images, Path(name))
        made = loaded(Path(name), adapter, prepared, images)
    if isinstance(made, NativeStep):
        made.signals = signals
    return made


def measure(subjects: list[Subject], repetitions: int, advance: Call) -> list[Cost]:
    """Time subjects turn by turn; the first is what the others are compared with."""
    times: list[list[float]] = [[] for _ in subjects]
    for _ in range(repetitions):
        for subject, mine in zip(subjects, times, strict=True):
            began = perf_counter()
            subject.run()
            mine.append(1000 * (perf_counter() - began))
            advance()
    base = median(times[0])
    return [
        Cost(each.spec, each.backend, median(mine), median(mine) / base, each.selected, each.options)
        for each, mine in zip(subjects, times, strict=True)
    ]


def as_table(costs: list[Cost], about: Mapping[str, str]) -> Table:
    """Lay the costs out."""
    caption = "\n".join([f"{name} {value}" for name, value in about.items()])
    table = Table(title="A step in frozen forward passes", caption=caption, box=box.SIMPLE_HEAD)
    for name in ("spec", "backend", "ms", "ratio", "at most", "verdict", "selected", "set for this"):
        table.add_column(name, justify="right" if name in {"ms", "ratio", "at most", "selected"} else "left")
    for cost in costs:
        row = (
            cost.spec,
            cost.backend,
            f"{cost.milliseconds:.1f}",
            f"{cost.ratio:.2f}",
            "" if cost.most is None else f"{cost.most:g}",
            cost.verdict,
            "" if cost.selected is None else f"{100 * cost.selected:.0f} %",
            " ".join(f"{name}={value}" for name, value in cost.options.items()),
        )
        table.add_row(*row, style="red" if cost.verdict.startswith("above") else "")
    return table


def main(
    data: Annotated[
        Path, typer.Option(envvar="ACCLIMATE_CIFAR10C", exists=True, help="Folder of `benchmarks.cifar10c`.")
    ],
    specs: Annotated[list[str], typer.Option(help="Specs; repeat.", show_default=False)] = list(SPECS),  # noqa: B006
    network: Annotated[
        Network, typer.Option(help="The CIFAR ResNet-20, or an untrained MobileNet at 224.")
    ] = "resnet20",
    corruption: Annotated[str, typer.Option(help="Corruption whose images are sent to the ResNet.")] = "gaussian_noise",
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the images that filtering learners learn from.")
    ] = 0.3,
    native: Annotated[
        bool, typer.Option(help="Also as machine code, where a step has a gradient: a minute each to make.")
    ] = False,
    eager: Annotated[
        list[str], typer.Option(help="Specs in PyTorch alone: of deep networks graphs take long to make; repeat.")
    ] = [],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Of which the median is shown.")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure what steps cost beside the frozen forward pass, on the CIFAR ResNet-20 or a MobileNet."""
    torch.set_num_threads(threads)
    sent = workload(network, data, corruption, batch)
    with Progress(console=Console(stderr=True)) as progress:
        making = progress.add_task("preparing", total=len(specs))
        subjects, graph_of = [frozen(sent.source, sent.x)], graphs_made(threads)
        for spec in specs:
            subjects += subjects_of(spec, sent, share, None if spec in eager else graph_of, native=native)
            progress.advance(making)
        task = progress.add_task("steps", total=(repetitions + 1) * len(subjects))
        measure(subjects, 1, lambda: progress.advance(task))
        costs = measure(subjects, repetitions, lambda: progress.advance(task))
    about = {
        "network": network,
        "images per step": str(len(sent.x)),
        "repetitions": str(repetitions),
        **machine(threads),
    }
    Console(width=120).print(as_table(costs, about))
    if json_file is not None:
        rows = [{**asdict(cost), "most": cost.most, "verdict": cost.verdict} for cost in costs]
        json_file.write_text(json.dumps({**about, "costs": rows}, indent=1) + "\n")


def _usual(spec: str, source: SourceModel, x: Tensor, share: float) -> dict[str, str]:
    """Return the options by which a share of x passes a learner's filters, and by which CoTTA augments."""
    adapter = read_pipeline(spec)
    learner = adapter.spec.learner
    if learner == "cotta":
        return {"cotta.threshold": "1.0"}
    if not isinstance(adapter.options.get(learner), FilterOptions):
        return {}
    prepared = adapter.prepare(source)
    entropies = entropy_of_probabilities(adapter.step(prepared, adapter.init(prepared), x)[0].logits.softmax(1))
    margin = float(entropies.quantile(share)) / math.log(source.classes)
    return {f"{learner}.e_margin": f"{margin:.4f}", f"{learner}.d_margin": "1.0"}


def _with_options_of(wanted: Wanted, graph: Graph) -> Graph:
    """Return a graph as it serves a pipeline; of one that answers by it and learns in PyTorch, options are no part."""
    adapter, fit = wanted.adapter, wanted.prepared
    if wanted.answers_first and isinstance(adapter, Pipeline) and isinstance(fit, Fit):
        return Graph(CompiledPass(graph.step.session, adapter, fit), graph.least_images)
    return graph


if __name__ == "__main__":
    typer.run(main)
