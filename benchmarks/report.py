"""The form of all benchmarks: shared options, progress on stderr, tables on stdout, and figures in a JSON file."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

Data: TypeAlias = Annotated[
    Path, typer.Option(envvar="ACCLIMATE_CIFAR10C", exists=True, help="Folder of `benchmarks.cifar10c`.")
]
Specs: TypeAlias = Annotated[list[str], typer.Option(help="Specs; repeat.", show_default=False)]
Corruption: TypeAlias = Annotated[str, typer.Option(help="Corruption whose images are sent.")]
JsonFile: TypeAlias = Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")]


def progress() -> Progress:
    """Return a progress display on stderr, so that stdout holds the tables alone."""
    return Progress(console=Console(stderr=True))


def new_table(title: str, headings: Sequence[str], left: Collection[str] = ("spec",), caption: str = "") -> Table:
    """Return an empty table with right-aligned columns, except for those named in `left`."""
    table = Table(title=title, caption=caption or None, box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    return table


def lines_of(about: Mapping[str, str]) -> str:
    r"""Return the context of the figures with one name and value per line.

    Example:
        >>> lines_of({"cores": "2", "batch": "64"})
        'cores 2\nbatch 64'
    """
    return "\n".join(f"{name} {value}" for name, value in about.items())


def write(*tables: Table, width: int, figures: Any, json_file: Path | None) -> None:
    """Print tables that are `width` characters wide, and write the figures as JSON if a file is given."""
    for table in tables:
        Console(width=width).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
