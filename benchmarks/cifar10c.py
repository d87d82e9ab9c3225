"""Errors on CIFAR-10-C compared with public implementations: `python -m benchmarks.cifar10c --help`.

The protocol is continual: the 15 corruptions at severity 5 follow each other in one stream, in batches that run across
their borders (the last is smaller). Nothing is reset, and each batch is answered once, by the step that learns from it.
In i.i.d. order, images are in the order of the files. In correlated order, they are in the order of
`order_dirichlet_0.1.npy` (Dirichlet 0.1 over 10 slots), so that neighbours share their label.

`PUBLIC` holds the errors of public code on the small folder (1,000 test images, one seed), from that folder's README:
mariodoebler/test-time-adaptation 8b2ed63 and, for UnMix-TNS and NOTE, devavratTomar/unmixtns 8e12b9f, on PyTorch 2.13
CPU. An error that was not measured is None.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from adapters import Adapter, SourceImages, SourceModel
from adapters.errors import AdapterError
from adapters.registry import pipelines_of
from benchmarks import report
from benchmarks.resnet20 import load_source_model, read_source_images, with_artefacts
from service.offline.evaluation.data import Domains, Items, in_memory
from service.offline.evaluation.layouts import CIFAR10C as CORRUPTIONS
from service.offline.evaluation.layouts import FULL_ROWS
from service.offline.evaluation.pipelines import is_random, read_pipeline
from service.offline.evaluation.protocols import Plan, Segment
from service.offline.evaluation.runs import run

PUBLIC_IMAGES, PUBLIC_BATCH = 1000, 64
"""The images per corruption and the batch size of the public figures."""

LOG_WIDTH = 120
"""Width of the table, in characters, if the output is not a terminal."""


class Order(StrEnum):
    """The order of the images within a corruption."""

    IID = "iid"
    CORRELATED = "correlated"


PUBLIC: Mapping[str, Mapping[Order, float | None]] = MappingProxyType(
    {
        text: MappingProxyType({Order.IID: iid, Order.CORRELATED: correlated})
        for text, iid, correlated in (
            ("source", 57.87, 57.87),
            ("batch", 37.71, 66.84),
            ("batch+tent,tent.lr=1e-3", 35.41, 66.81),
            ("batch+eta,eta.lr=1e-3,eta.d_margin=0.4", 35.29, 66.61),
            ("batch+eata,eata.lr=1e-3,eata.d_margin=0.4,eata.fisher_alpha=1.0", 35.33, 66.59),
            ("batch+sar,sar.lr=1e-3", 37.47, 66.66),
            ("batch+roid,roid.lr=1e-3,roid_prior.prior_on=logits", 35.76, 63.65),
            ("batch+rmt,rmt.lr=1e-3", 31.46, 64.21),
            ("batch+cotta,cotta.lr=1e-3,cotta.threshold=0.92", 30.26, 63.18),
            ("source+lame", 77.31, 58.26),
            ("unmix_tns", 52.97, 53.15),
            ("unmix_tns+tent,tent.lr=1e-5", 52.92, 53.06),
            ("unmix_tns+lame", 82.65, 49.15),
            ("rotta_bn+rotta,rotta.lr=1e-3", 50.97, 50.75),
            ("unmix_tns+rotta,rotta.lr=1e-5", None, 52.25),
            ("note_iabn+note,note.lr=1e-3", 45.58, 48.26),
            ("unmix_tns+roid,roid.lr=1e-5,roid_prior.prior_on=logits", 54.73, 44.98),
            ("unmix_tns+cotta,cotta.lr=1e-5,cotta.threshold=0.92", None, 40.01),
            # This learning rate is too high: the model collapses.
            ("unmix_tns+tent,tent.lr=1e-3", 87.25, 85.53),
        )
    }
)


@dataclass(frozen=True)
class Folder:
    """Severity 5 of a CIFAR-10-C folder: images (15 * N, H, W, 3) uint8, corruption by corruption; labels (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Run:
    """One pass over the stream: error in % per corruption, and median time of a batch in milliseconds."""

    seed: int
    errors: tuple[float, ...]
    batch_milliseconds: float

    @property
    def error(self) -> float:
        """Error in % over the whole stream."""
        return statistics.fmean(self.errors)


@dataclass(frozen=True)
class Result:
    """A pipeline's runs in one order, and the public figure; None if there is no comparable one."""

    pipeline: str
    order: Order
    runs: tuple[Run, ...]
    public: float | None
    allowance: float

    @property
    def error(self) -> float:
        """Mean error in % over the seeds."""
        return statistics.fmean(run.error for run in self.runs)

    @property
    def verdict(self) -> str:
        """`within`, `better` or `worse` than the public figure by more than the allowance; `-` without a figure."""
        if self.public is None:
            return "-"
        if abs(self.error - self.public) <= self.allowance:
            return "within"
        return "better" if self.error < self.public else "worse"


def severity_5(rows: int) -> slice:
    """Return the rows of severity 5: 40,000 to 49,999 in the full CIFAR-10-C, and all rows of a smaller folder.

    Example:
        >>> severity_5(50_000), severity_5(1000)
        (slice(40000, 50000, None), slice(0, 1000, None))
    """
    return slice(FULL_ROWS * 4 // 5, FULL_ROWS) if rows == FULL_ROWS else slice(0, rows)


def read_folder(data: Path) -> Folder:
    """Read labels and the 15 corruptions at severity 5."""
    labels = _read_rows(data / "labels.npy")
    arrays = [_read_rows(data / f"{corruption}.npy") for corruption in CORRUPTIONS]
    for corruption, array in zip(CORRUPTIONS, arrays, strict=True):
        if len(array) != len(labels):
            raise typer.BadParameter(f"{corruption}.npy has {len(array)} images and labels.npy {len(labels)}")
    return Folder(torch.from_numpy(np.concatenate(arrays)), torch.from_numpy(labels.astype(np.int64)))


def read_order(data: Path, order: Order, images: int) -> Tensor:
    """Return the stream's order as row numbers (15 * images,) into a folder's images."""
    within = np.broadcast_to(np.arange(images), (len(CORRUPTIONS), images))
    if order is Order.CORRELATED:
        within = np.load(_existing(data / "order_dirichlet_0.1.npy"))
        if within.shape != (len(CORRUPTIONS), images):
            raise typer.BadParameter(
                f"order_dirichlet_0.1.npy is {within.shape}, expected {(len(CORRUPTIONS), images)}; `--order iid` works"
            )
    starts = np.arange(len(CORRUPTIONS))[:, None] * images
    return torch.from_numpy((starts + within).astype(np.int64).ravel())


def run_stream(
    adapter: Adapter, source: SourceModel, folder: Folder, order: Tensor, batch: int, advance: Callable[[int], None]
) -> Run:
    """Run the stream once, learning throughout. `advance` is called with the number of images of each batch."""
    rows, count = order.numpy(), len(folder.labels)
    pixels = np.split(folder.images.numpy().transpose(0, 3, 1, 2), len(CORRUPTIONS))
    domains = Domains(
        {name: in_memory(part, folder.labels.numpy()) for name, part in zip(CORRUPTIONS, pixels, strict=True)}
    )
    items = Items(domain=rows // count, severity=np.zeros_like(rows), row=rows % count)
    found = run(adapter, source, domains, Plan("continual", (Segment(items),)), batch, advance)
    return Run(found.seed, tuple(found.errors.values()), found.milliseconds)


def without_artefacts(texts: list[str]) -> list[str]:
    """Return the pipelines that need no source artefacts.

    Example:
        >>> without_artefacts(["batch+eata", "batch+rmt"])
        ['batch+eata']
    """
    return [text for text in texts if not any(p.learner.needs.artefacts for p in pipelines_of(read_pipeline(text)))]


def public_figure(adapter: Adapter, order: Order) -> float | None:
    """Return the public error of the pipeline with the same spec and options; None if there is none."""
    for text, figures in PUBLIC.items():
        if _settings(read_pipeline(text)) == _settings(adapter):
            return figures[order]
    return None


def allowance(adapter: Adapter) -> float:
    """Return the points by which an error may exceed the public one: 1 for a random initial state, else 0.5."""
    return 1.0 if adapter.spec.normalizer == "unmix_tns" else 0.5


app = typer.Typer(add_completion=False)


@app.command(epilog="Exit code: 0, or 1 if an error exceeds the public one by more than its allowance.")
def main(
    data: Annotated[
        Path,
        typer.Option(
            envvar="ACCLIMATE_CIFAR10C",
            exists=True,
            file_okay=False,
            help="Folder of CIFAR-10-C arrays (full, or only severity 5), labels.npy and resnet20.safetensors; "
            "the correlated order also needs order_dirichlet_0.1.npy, and pipelines with a source artefact need "
            "source_images.npy and source_labels.npy.",
        ),
    ],
    spec: Annotated[
        list[str],
        typer.Option(
            help="A pipeline, `SPEC[,PART.OPTION=VALUE]...`, such as `batch+eta,eta.d_margin=0.4`; repeat for more. "
            "Default: all with a public figure; without source images, those that need none.",
            show_default=False,
        ),
    ] = list(PUBLIC),  # noqa: B006 - typer never writes to it
    order: Annotated[
        Literal["iid", "correlated", "both"], typer.Option(help="Order of the images within a corruption.")
    ] = "both",
    batch: Annotated[int, typer.Option(min=1, help="Images per step; the public figures hold for 64.")] = PUBLIC_BATCH,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of a pipeline with random draws; others run once.")] = 3,
    threads: Annotated[int, typer.Option(min=1, max=2, help="Threads of PyTorch.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures here, per seed and corruption.")
    ] = None,
) -> None:
    """Measure the continual errors of pipelines on CIFAR-10-C, and compare them with public implementations.

    The 15 corruptions at severity 5 form one stream, in batches that run across their borders. Nothing is reset.
    """
    torch.set_num_threads(threads)
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    folder = read_folder(data)
    source = load_source_model(_existing(data / "resnet20.safetensors"))
    images = read_source_images(data)
    if images is None and spec == list(PUBLIC):
        spec = without_artefacts(spec)
    orders = list(Order) if order == "both" else [Order(order)]
    streams = {each: read_order(data, each, len(folder.labels)) for each in orders}
    try:
        results = list(_measure(spec, source, images, folder, streams, batch, seeds, console))
    except AdapterError as error:
        raise typer.BadParameter(str(error)) from None
    settings = {"data": str(data), "batch": batch, "threads": threads, "torch": torch.__version__}
    figures = {**settings, "results": [as_json(each) for each in results]}
    report.write(as_table(results), width=console.width, figures=figures, json_file=json_file)
    if any(result.verdict == "worse" for result in results):
        raise typer.Exit(1)


def as_table(results: list[Result]) -> Table:
    """Return the results as a table for a terminal of 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title="Error in % over 15 corruptions, continual",
        caption="Several seeds: the mean, and least to most. Allowed above public: 0.5 points, 1 for unmix_tns. "
        "ms: median time of a batch.",
    )
    table.add_column("pipeline", overflow="fold")
    table.add_column("order", no_wrap=True)
    for heading in ("error", "public", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result), style="red" if result.verdict == "worse" else "")
    return table


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as JSON values: mean error and verdict, and each run's error per corruption."""
    runs = [
        {**asdict(run), "error": run.error, "errors": dict(zip(CORRUPTIONS, run.errors, strict=True))}
        for run in result.runs
    ]
    return {**asdict(result), "error": result.error, "verdict": result.verdict, "runs": runs}


def _measure(
    texts: list[str],
    source: SourceModel,
    images: SourceImages | None,
    folder: Folder,
    streams: Mapping[Order, Tensor],
    batch: int,
    seeds: int,
    console: Console,
) -> Iterator[Result]:
    sources = {text: with_artefacts(source, read_pipeline(text), images) if images else source for text in texts}
    plans = [(text, range(seeds) if is_random(text, sources[text]) else range(1)) for text in texts]
    comparable = len(folder.labels) == PUBLIC_IMAGES and batch == PUBLIC_BATCH
    with Progress(console=console) as progress:
        total = sum(len(stream) * len(numbers) for _, numbers in plans for stream in streams.values())
        task = progress.add_task("", total=total)
        for text, numbers in plans:
            for order, stream in streams.items():
                progress.update(task, description=f"{text} ({order})")
                adapters = [read_pipeline(text, seed) for seed in numbers]
                runs = [
                    run_stream(adapter, sources[text], folder, stream, batch, lambda done: progress.advance(task, done))
                    for adapter in adapters
                ]
                public = public_figure(adapters[0], order) if comparable else None
                result = Result(text, order, tuple(runs), public, allowance(adapters[0]))
                progress.console.print(f"{text} ({order}): {result.error:.2f} %, {result.verdict}")
                yield result


def _cells(result: Result) -> list[str]:
    errors = [run.error for run in result.runs]
    spread = f"\n{min(errors):.2f}-{max(errors):.2f}" if len(errors) > 1 else ""
    milliseconds = statistics.median(run.batch_milliseconds for run in result.runs)
    public, difference = "-", "-"
    if result.public is not None:
        public, difference = f"{result.public:.2f}", f"{round(result.error - result.public, 2) + 0.0:+.2f}"
    return [
        result.pipeline,
        result.order,
        f"{result.error:.2f}{spread}",
        public,
        difference,
        result.verdict,
        f"{milliseconds:.0f}",
    ]


def _settings(adapter: Adapter) -> tuple[object, ...]:
    return (adapter.spec, adapter.options)


def _read_rows(path: Path) -> Any:
    array = np.load(_existing(path), mmap_mode="r")
    return np.array(array[severity_5(len(array))])


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise typer.BadParameter(f"{path.parent} holds no {path.name}")
    return path


if __name__ == "__main__":
    app()
