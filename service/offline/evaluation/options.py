"""The command-line options of `acclimate compare` and `acclimate tune`, with their help texts."""

from pathlib import Path
from typing import Annotated

import typer

DATA, ORDER, RUNS, RESULTS = "Data", "Order of the images", "Runs", "Results"
BundleOption = Annotated[
    Path | None, typer.Option("--bundle", help="The model's bundle folder. Default: the embedded one.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        exists=True,
        rich_help_panel=DATA,
        help="Labelled images: a CIFAR-10-C folder (`<corruption>.npy`, `labels.npy`), a folder "
        "`<domain>/<class>/*.png|jpg`, or an `.npz` of `images`, `labels` and perhaps `domains`. Default: the "
        "embedded clothes, clean and under 13 corruptions.",
    ),
]
DomainsOption = Annotated[
    str | None,
    typer.Option("--domains", rich_help_panel=DATA, help="Domains to show, in this order: `fog,snow`. Default: all."),
]
ImagesOption = Annotated[
    int | None,
    typer.Option(
        "--images", min=1, rich_help_panel=DATA, help="Most images per domain. Default: all; 500 of the embedded."
    ),
]
SeverityOption = Annotated[
    int | None,
    typer.Option(
        "--severity",
        min=1,
        max=5,
        rich_help_panel=DATA,
        help="Severity of the corruptions, if the data have several. Default: 5 for CIFAR-10-C, 4 for the embedded.",
    ),
]
OrderSeed = Annotated[
    int,
    typer.Option(
        "--order-seed", min=0, rich_help_panel=ORDER, help="Seed of the images' order and choice, for all specs."
    ),
]
KeepOrder = Annotated[
    bool,
    typer.Option(
        "--keep-order",
        rich_help_panel=ORDER,
        help="Keep each domain's images in their stored order, as for a recording. Default: shuffled.",
    ),
]
DeltaOption = Annotated[
    float,
    typer.Option(
        "--delta",
        min=1e-3,
        rich_help_panel=ORDER,
        help="`correlated`: Dirichlet parameter; smaller values give longer runs of one label.",
    ),
]
SlotsOption = Annotated[
    int,
    typer.Option(
        "--slots", min=1, rich_help_panel=ORDER, help="`correlated`: number of parts that each label is spread over."
    ),
]
RepetitionsOption = Annotated[
    int, typer.Option("--repetitions", min=1, rich_help_panel=ORDER, help="`long`: how often the domains repeat.")
]
OrderFile = Annotated[
    Path | None,
    typer.Option(
        "--order-file",
        exists=True,
        dir_okay=False,
        rich_help_panel=ORDER,
        help="`correlated`: take each domain's order from this .npy (domains, images) instead of drawing it.",
    ),
]
SeedsOption = Annotated[
    int,
    typer.Option("--seeds", min=1, rich_help_panel=RUNS, help="Runs of a spec with random draws; others run once."),
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", min=1, rich_help_panel=RUNS, help="Processes, one thread each. Default: one per core."),
]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json", rich_help_panel=RESULTS, help="Write all results to this file: per seed, per domain, over time."
    ),
]
SpecsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SPEC[,PART.OPTION=VALUE]...",
        help="Pipelines to compare, such as `ema` or `batch+eta,eta.lr=1e-4`. Default: six common ones.",
        show_default=False,
    ),
]
ProtocolsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        rich_help_panel=ORDER,
        help="Protocol; repeat for more: `continual` (domain after domain, never reset), `reset` (reset before each "
        "domain), `gradual` (severity 1 to 5 and back in each domain), `mixed` (domains shuffled together), "
        "`correlated` (continual, neighbours share labels), `long` (continual, several times over). Default: "
        "continual and correlated.",
        show_default=False,
    ),
]
BatchesOption = Annotated[
    list[int] | None,
    typer.Option("--batch", min=1, rich_help_panel=RUNS, help="Images per step; repeat for more. Default: 50."),
]
ByDomain = Annotated[
    bool, typer.Option("--by-domain", rich_help_panel=RESULTS, help="Also show the errors of each domain.")
]
CsvOption = Annotated[
    Path | None,
    typer.Option("--csv", rich_help_panel=RESULTS, help="Write one row per spec, protocol, batch, seed and domain."),
]
PlotsOption = Annotated[
    Path | None,
    typer.Option(
        "--plots",
        file_okay=False,
        rich_help_panel=RESULTS,
        help="Plot error over time, against batch size and against cost in this folder (needs matplotlib).",
    ),
]
