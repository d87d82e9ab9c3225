"""`acclimate compare` and `acclimate tune`: measure on labelled data which specs and options help."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.markup import escape

from adapters.errors import AdapterError
from service.cli.arguments import AllowFactory
from service.errors import SettingsError, UnfitError
from service.models.bundle import read_bundle
from service.offline.evaluation import report, tuning
from service.offline.evaluation.comparison import SOURCE, Cell, schedule
from service.offline.evaluation.data import Domains
from service.offline.evaluation.layouts import Wanted, read_data
from service.offline.evaluation.options import (
    DATA,
    ORDER,
    RUNS,
    BatchesOption,
    BundleOption,
    ByDomain,
    CsvOption,
    DataOption,
    DeltaOption,
    DomainsOption,
    ImagesOption,
    JobsOption,
    JsonOption,
    KeepOrder,
    OrderFile,
    OrderSeed,
    PlotsOption,
    ProtocolsOption,
    RepetitionsOption,
    SeedsOption,
    SeverityOption,
    SlotsOption,
    SpecsArgument,
)
from service.offline.evaluation.pixels import Integers
from service.offline.evaluation.processes import BundleModel
from service.offline.evaluation.protocols import PROTOCOLS, PlanSettings, make_plan
from service.offline.evaluation.terminal import Subject, measured, open_console, show, write
from service.settings import EMBEDDED, Settings

app = typer.Typer(rich_markup_mode="markdown")

SPECS = ("source", "batch", "ema", "batch+eta", "ema+eta,eta.lr=1e-4", "unmix_tns")
EMBEDDED_IMAGES = 500
"""Default number of embedded images per domain: enough to distinguish specs, within minutes."""


@app.command()
def compare(
    specs: SpecsArgument = None,
    bundle: BundleOption = None,
    allow_factory: AllowFactory = None,
    data: DataOption = None,
    domains: DomainsOption = None,
    images: ImagesOption = None,
    severity: SeverityOption = None,
    protocol: ProtocolsOption = None,
    keep_order: KeepOrder = False,
    delta: DeltaOption = 0.1,
    slots: SlotsOption = 10,
    repetitions: RepetitionsOption = 10,
    order_file: OrderFile = None,
    order_seed: OrderSeed = 0,
    batch: BatchesOption = None,
    seeds: SeedsOption = 3,
    jobs: JobsOption = None,
    by_domain: ByDomain = False,
    json_file: JsonOption = None,
    csv_file: CsvOption = None,
    plots: PlotsOption = None,
) -> None:
    """Run specs over labelled data, offline, and show which of them err least.

    No server is involved. The answers are those that a stream would have given; labels are used only to count errors.
    Every spec gets the same images in the same order. The frozen model is always included: `!` marks specs that are
    worse.

    For example:

    - `acclimate compare` - the embedded model and images, usual specs

    - `acclimate compare source ema batch+eta,eta.lr=1e-4 --images 500 --plots ./pictures`

    - `acclimate compare --bundle ./my-model --data ./my-images --protocol correlated --batch 1 --batch 16 --batch 64`
    """
    if plots:
        _check_plotting()
    names, sizes = tuple(protocol or ("continual", "correlated")), tuple(batch or (50,))
    settings = _plan_settings(not keep_order, delta, slots, repetitions, order_file, names)
    wanted = Wanted(
        domains=_names(domains),
        images=_bound(images, data),
        severity=severity,
        ramps="gradual" in names,
        seed=order_seed,
    )
    subject = _subject(bundle, allow_factory)
    shown = read_data(data, subject.bundle.input, subject.bundle.classes, wanted)
    plans = [make_plan(name, shown, settings, order_seed) for name in dict.fromkeys(names)]
    with _refusals():
        runs = schedule(subject.source, tuple(dict.fromkeys(specs or SPECS)), plans, tuple(dict.fromkeys(sizes)), seeds)
    console = open_console()
    cells = measured(subject, shown, runs, jobs, console)
    show(cells, console, by_domain)
    about = {
        "model": subject.bundle.name,
        "fingerprint": subject.bundle.fingerprint,
        "data": str(data or "embedded"),
        "domains": {name: len(domain) for name, domain in shown.by_name.items()},
        "severities": {name: domain.severity for name, domain in shown.by_name.items()},
        "order_seed": order_seed,
        "torch": torch.__version__,
    }
    write(json_file, report.as_json(cells, about), console)
    write(csv_file, report.as_csv(cells), console)
    if plots:
        from service.offline.evaluation.plots import write_plots

        for file in write_plots(cells, plans, shown.names, plots):
            console.print(f"wrote {file}", highlight=False)


@app.command()
def tune(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC[,PART.OPTION=VALUE]...", help="The pipeline to tune, such as `batch+eta`.")
    ],
    vary: Annotated[
        list[str],
        typer.Option("--vary", metavar="PART.OPTION=V1,V2,...", help="Values to try; repeat for a grid."),
    ],
    bundle: BundleOption = None,
    allow_factory: AllowFactory = None,
    data: DataOption = None,
    choose: Annotated[
        str | None,
        typer.Option(
            "--choose", rich_help_panel=DATA, help="Domains to choose on, such as `fog,snow`. Default: the first third."
        ),
    ] = None,
    report_on: Annotated[
        str | None,
        typer.Option("--report", rich_help_panel=DATA, help="Other domains to report on. Default: the rest."),
    ] = None,
    images: ImagesOption = None,
    severity: SeverityOption = None,
    protocol: Annotated[
        str, typer.Option("--protocol", rich_help_panel=ORDER, help=f"One of {', '.join(PROTOCOLS)}; see `compare`.")
    ] = "continual",
    keep_order: KeepOrder = False,
    delta: DeltaOption = 0.1,
    slots: SlotsOption = 10,
    repetitions: RepetitionsOption = 10,
    order_seed: OrderSeed = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, rich_help_panel=RUNS, help="Images per step.")] = 50,
    seeds: SeedsOption = 3,
    jobs: JobsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Choose a spec's options on some domains, and report their error on others.

    Every combination of the values, and the unchanged spec, run over the choosing domains. The least error wins. The
    winner, the unchanged spec and the frozen model then run over the reporting domains. Only that error is unbiased,
    since the choice has not seen these domains.

    For example:

    - `acclimate tune ema --vary ema.momentum=0.01,0.03,0.1,0.3`

    - `acclimate tune batch+eta --vary eta.lr=1e-4,3e-4,1e-3 --vary eta.d_margin=0.05,0.4 --choose fog,contrast`
    """
    settings = _plan_settings(not keep_order, delta, slots, repetitions, None, (protocol,))
    with _refusals():
        pipelines = tuning.grid(spec, vary)
    named = (*_names(choose), *_names(report_on)) if choose and report_on else ()
    wanted = Wanted(
        images=_bound(images, data), severity=severity, ramps=protocol == "gradual", seed=order_seed, domains=named
    )
    subject = _subject(bundle, allow_factory)
    parts = tuning.split(
        read_data(data, subject.bundle.input, subject.bundle.classes, wanted), _names(choose), _names(report_on)
    )
    console = open_console()

    def try_all(domains: Domains, texts: Sequence[str]) -> list[Cell]:
        plan = make_plan(protocol, domains, settings, order_seed)
        with _refusals():
            runs = schedule(subject.source, texts, [plan], [batch], seeds)
        return measured(subject, domains, runs, jobs, console)

    console.print(f"choosing on {', '.join(parts.choose.names)}", highlight=False)
    choosing = try_all(parts.choose, pipelines)
    show(choosing, console, by_domain=False)
    chosen = tuning.choose(choosing)
    console.print(f"chosen: {chosen}\nreporting on {', '.join(parts.report.names)}", highlight=False)
    reporting = try_all(parts.report, tuple(dict.fromkeys((chosen, spec, SOURCE))))
    show(reporting, console, by_domain=False)
    about = {"choose": parts.choose.names, "report": parts.report.names, "chosen": chosen}
    write(json_file, report.as_json([*choosing, *reporting], about), console)
    console.print(f"use: [bold]{escape(chosen)}[/]", highlight=False)


def _subject(folder: Path | None, allow_factory: list[str] | None) -> Subject:
    allowed = (*Settings().allow_factories, *(allow_factory or []))
    load = BundleModel(folder or EMBEDDED, allowed)
    return Subject(read_bundle(load.folder), load, load())


def _bound(images: int | None, data: Path | None) -> int | None:
    return EMBEDDED_IMAGES if images is None and data is None else images


def _plan_settings(
    shuffle: bool, delta: float, slots: int, repetitions: int, order_file: Path | None, protocols: Sequence[str]
) -> PlanSettings:
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown:
        raise SettingsError(f"there is no protocol {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    if order_file is not None and "correlated" not in protocols:
        raise SettingsError("an order file is for --protocol correlated, which is not among the protocols")
    order = None if order_file is None else _read_order(order_file)
    return PlanSettings(shuffle=shuffle, delta=delta, slots=slots, repetitions=repetitions, order=order)


def _read_order(file: Path) -> Integers:
    try:
        order = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnfitError(f"{file} is no readable .npy: {error}") from None
    if order.ndim != 2 or order.dtype.kind not in "iu":
        raise UnfitError(f"{file} is {order.dtype} {order.shape}, expected integers (domains, images)")
    return np.asarray(order, np.int64)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def _check_plotting() -> None:
    """Check that plots can be drawn, before a long comparison begins."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingsError("--plots needs matplotlib, which is not installed: pip install 'acclimate[plots]'")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except AdapterError as error:
        raise UnfitError(str(error)) from None
