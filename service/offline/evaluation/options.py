"""The settings of `acclimate compare` and `acclimate tune`, with the words that explain them."""

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
        help="Of the corruptions, where the data have several. Default: 5 of the full CIFAR-10-C, 4 of the embedded.",
    ),
]
OrderSeed = Annotated[
    int,
    typer.Option(
        "--order-seed", min=0, rich_help_panel=ORDER, help="Of the order and choice of images, the same for all specs."
    ),
]
KeepOrder = Annotated[
    bool,
    typer.Option(
        "--keep-order",
        rich_help_panel=ORDER,
        help="Show each domain's images as stored, for a recording; else they are shuffled.",
    ),
]
DeltaOption = Annotated[
    float,
    typer.Option(
        "--delta",
        min=1e-3,
        rich_help_panel=ORDER,
        help="`correlated`: Dirichlet parameter; the smaller, the longer a label stays.",
    ),
]
SlotsOption = Annotated[
    int,
    typer.Option(
        "--slots", min=1, rich_help_panel=ORDER, help="`correlated`: parts of a domain that labels are spread over."
    ),
]
RepetitionsOption = Annotated[
    int, typer.Option("--repetitions", min=1, rich_help_panel=ORDER, help="`long`: how often the domains come.")
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
    typer.Option("--seeds", min=1, rich_help_panel=RUNS, help="Runs of a spec that draws numbers; others run once."),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, rich_help_panel=RUNS, help="Processes, one thread each. Default: the cores there are."
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", rich_help_panel=RESULTS, help="Write everything here: per seed, domain, over time."),
]
SpecsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SPEC[,PART.OPTION=VALUE]...",
        help="Pipelines to compare, as `ema` or `batch+eta,eta.lr=1e-4`. Default: six usual ones.",
        show_default=False,
    ),
]
ProtocolsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        rich_help_panel=ORDER,
        help="Repeat for more: `continual` (domain after domain, never reset), `reset` (before each domain), "
        "`gradual` (severity 1 to 5 and back in each domain), `mixed` (domains shuffled together), `correlated` "
        "(continual, neighbours share labels), `long` (continual, many times over). Default: continual and "
        "correlated.",
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
    typer.Option("--csv", rich_help_panel=RESULTS, help="Write a line per spec, protocol, batch, seed and domain."),
]
PlotsOption = Annotated[
    Path | None,
    typer.Option(
        "--plots",
        file_okay=False,
        rich_help_panel=RESULTS,
        help="Draw error over time, against batch size and against cost into this folder (needs matplotlib).",
    ),
]
