"""The cost of a step, in frozen forward passes: `python -m benchmarks.cost --help`.

Every spec repeats its step from the same state on the same batch, so that every round does the same work. All specs and
the plain PyTorch forward pass run in turn. The table shows the medians and their ratios to the frozen forward pass.

Options fix whatever would depend on the images, and the table shows them. For learners that filter images, the entropy
margin lets a given share of the batch pass, and no image counts as redundant. CoTTA always augments.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
import typer
from rich.table import Table
from torch import Tensor

from adapters import SourceImages, SourceModel
from adapters.functional.entropy import entropy_of_probabilities
from adapters.learning.filtered_entropy import FilterOptions
from benchmarks import report
from benchmarks.machine import machine
from benchmarks.mobilenet import made_images, mobilenet_source
from benchmarks.monitoring import write_bundle
from benchmarks.report import Data, JsonFile, Specs
from benchmarks.resnet20 import load_source_model, read_source_images, with_artefacts
from service.models.bundle import Bundle, read_bundle
from service.models.kernels.capabilities import capabilities
from service.models.kernels.graphs.cache import Made, Wanted, kernel_of, made_anew
from service.models.kernels.graphs.step import TRIED
from service.models.kernels.kernel import Kernel, OwnSteps
from service.models.kernels.native.background import loaded
from service.offline.evaluation.pipelines import read_pipeline, with_options

EAGER, COMPILED, NATIVE = "eager", "compiled", "native"
MADE_IMAGES = 128
"""Source images for the MobileNet's artefacts."""
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
"""Most frozen forward passes that a step may cost, by spec and backend. Other specs have no limit."""
SPECS = (
    "source", "source+lame", "batch", "ema", "unmix_tns", "unmix_tns+lame", "batch+tent", "batch+eata",
    "unmix_tns+eata", "batch+cotta",
)  # fmt: skip

Call: TypeAlias = Callable[[], object]
GraphOf: TypeAlias = Callable[[str, Wanted], Made]
Network: TypeAlias = Literal["resnet20", "mobilenet"]


@dataclass(frozen=True)
class Workload:
    """The network to step, source images for its artefacts if there are any, and the batch x (N, C, H, W)."""

    source: SourceModel
    images: SourceImages | None
    x: Tensor
    bundle: Bundle


@dataclass(frozen=True)
class Subject:
    """A spec on a backend to time, with the options that make it do its usual work.

    Attributes:
        spec: The spec.
        backend: The backend that runs it.
        selected: Share of the batch that the learner learns from; None if it does not select images.
        options: The options added to the spec, `PART.OPTION` to value.
        run: Takes one step.
    """

    spec: str
    backend: str
    selected: float | None
    options: Mapping[str, str]
    run: Call


@dataclass(frozen=True)
class Cost:
    """The median time of a step in milliseconds, and its ratio to the frozen forward pass."""

    spec: str
    backend: str
    milliseconds: float
    ratio: float
    selected: float | None
    options: Mapping[str, str]

    @property
    def most(self) -> float | None:
        """The limit of the ratio; None if there is none."""
        return MOST.get((self.spec, self.backend))

    @property
    def verdict(self) -> str:
        """`passes`, `above` or, without a limit, `-`."""
        if self.most is None:
            return "-"
        return "passes" if self.ratio <= self.most else f"above {self.most:g}"


def workload(network: Network, data: Path, corruption: str, batch: int) -> Workload:
    """Return a network and a batch of images to send to it; the batch is smaller if there are fewer images."""
    weights = data / "resnet20.safetensors"
    with tempfile.TemporaryDirectory() as name:
        bundle = read_bundle(write_bundle(Path(name), weights))
    if network == "mobilenet":
        images, x = made_images(max(batch, MADE_IMAGES)), made_images(batch).images / 255
        return Workload(mobilenet_source(), images, x, bundle)
    stored = torch.from_numpy(np.load(data / f"{corruption}.npy")[:batch]).permute(0, 3, 1, 2)
    return Workload(load_source_model(weights), read_source_images(data), (stored / 255).contiguous(), bundle)


def graphs_made(threads: int) -> GraphOf:
    """Return a function that makes the graph of a spec. It reuses a graph if only the options of `_usual` differ."""
    made: dict[str, Made] = {}

    def graph_of(spec: str, wanted: Wanted) -> Made:
        if spec not in made:
            made[spec] = made_anew(wanted, threads)
        return replace(made[spec], kernel=kernel_of(made[spec].kernel.session, wanted.own))

    return graph_of


def frozen(source: SourceModel, x: Tensor) -> Subject:
    """Return the plain PyTorch forward pass of x (N, C, H, W), which is in [0, 1] like the specs' inputs."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (source.mean, source.std))
    network = source.network.eval()

    def run() -> object:
        with torch.no_grad():
            return network((x - mean) / std)

    return Subject(FROZEN, EAGER, None, {}, run)


def subjects_of(
    spec: str, sent: Workload, share: float, graph_of: GraphOf | None, *, native: bool = False
) -> list[Subject]:
    """Return the step of a spec on a workload's x, on every backend that can run it.

    They are PyTorch; ONNX Runtime, if `graph_of` is not None and the pipeline has a graph for this batch size; and with
    `native` machine code, if the step can be compiled. Options make filtering learners learn from `share` of x, and
    CoTTA augment.
    """
    adapter, source, x = read_pipeline(spec), sent.source, sent.x
    if sent.images is not None:
        source = with_artefacts(source, adapter, sent.images)
    options = _usual(spec, source, x, share)
    adapter = read_pipeline(with_options(spec, options))
    prepared = adapter.prepare(source)
    output, state = adapter.step(prepared, adapter.init(prepared), x)  # makes PyTorch's first allocations
    selected = output.signals.get("selected_ratio")
    if selected is not None:  # the timed step must learn from the same images as this one
        state = adapter.init(prepared)
    share_selected = None if selected is None else float(selected)
    subjects = [Subject(spec, EAGER, share_selected, options, lambda: adapter.step(prepared, state, x))]
    can = capabilities(adapter, prepared)
    if graph_of is not None and can.own is not None and not can.graph:
        wanted = Wanted(sent.bundle, can.own, torch.rand(max(TRIED), *source.input_shape))
        if len(x) >= (graph := graph_of(spec, wanted)).least_images:
            subjects.append(Subject(spec, COMPILED, share_selected, options, lambda: graph.kernel.step(state, x)))
    if native and can.own is not None and not can.native:
        kernel = _native(can.own, len(x))
        subjects.append(Subject(spec, NATIVE, share_selected, options, lambda: kernel.steps([state], [x])))
    return subjects


def _native(own: OwnSteps, images: int) -> Kernel:
    """Compile a pipeline's step to machine code, which takes about a minute."""
    from service.models.kernels.native.compile import compile_for  # imports PyTorch's compiler, which takes seconds

    with tempfile.TemporaryDirectory() as name:
        compile_for(own, images, Path(name))
        return loaded(Path(name), own, images)


def measure(subjects: list[Subject], repetitions: int, advance: Call) -> list[Cost]:
    """Time subjects in turn; ratios are to the first one."""
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
    """Return the costs as a table."""
    headings = ("spec", "backend", "ms", "ratio", "at most", "verdict", "selected", "set for this")
    left = ("spec", "backend", "verdict", "set for this")
    table = report.new_table("Cost of a step, in frozen forward passes", headings, left, report.lines_of(about))
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
    data: Data,
    specs: Specs = list(SPECS),  # noqa: B006
    network: Annotated[
        Network, typer.Option(help="The CIFAR ResNet-20, or an untrained MobileNet at 224.")
    ] = "resnet20",
    corruption: Annotated[str, typer.Option(help="Corruption whose images are sent to the ResNet.")] = "gaussian_noise",
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 64,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the images that filtering learners learn from.")
    ] = 0.3,
    native: Annotated[
        bool, typer.Option(help="Also time machine code for steps with a gradient; compiling takes a minute each.")
    ] = False,
    eager: Annotated[
        list[str], typer.Option(help="Specs to run only in PyTorch, since graphs of deep networks take long; repeat.")
    ] = [],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 15,
    json_file: JsonFile = None,
) -> None:
    """Measure the cost of steps relative to the frozen forward pass, on the CIFAR ResNet-20 or a MobileNet."""
    torch.set_num_threads(threads)
    sent = workload(network, data, corruption, batch)
    with report.progress() as progress:
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
    rows = [{**asdict(cost), "most": cost.most, "verdict": cost.verdict} for cost in costs]
    report.write(as_table(costs, about), width=120, figures={**about, "costs": rows}, json_file=json_file)


def _usual(spec: str, source: SourceModel, x: Tensor, share: float) -> dict[str, str]:
    """Return the options that let a share of x pass a learner's filters, or that make CoTTA augment."""
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


if __name__ == "__main__":
    typer.run(main)
