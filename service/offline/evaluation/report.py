"""Formats a comparison as tables for the terminal, as JSON and as CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from service.offline.evaluation.comparison import Cell

WORSE = "!"
COLUMNS = (
    "spec", "protocol", "batch", "seed", "domain", "error", "source_error", "milliseconds", "refusal",
)  # fmt: skip


def as_table(cells: Sequence[Cell]) -> Table:
    """Return a table: a row per pipeline, an error column per protocol and batch size, then milliseconds per batch."""
    columns = list(dict.fromkeys((cell.protocol, cell.batch) for cell in cells))
    sizes = list(dict.fromkeys(batch for _, batch in columns))
    table = Table(box=box.SIMPLE_HEAD, title="Error in %", title_justify="left", caption=_caption(cells))
    table.caption_justify = "left"
    table.add_column("spec", overflow="fold")
    for protocol, batch in columns:
        table.add_column(f"{protocol}\nbatch {batch}", justify="right")
    for batch in sizes:
        table.add_column(f"ms\nbatch {batch}", justify="right")
    best = {column: min(cell.error for cell in cells if (cell.protocol, cell.batch) == column) for column in columns}
    for text in dict.fromkeys(cell.pipeline for cell in cells):
        mine = {(cell.protocol, cell.batch): cell for cell in cells if cell.pipeline == text}
        errors = [_error(mine[column], best[column]) for column in columns]
        times = [_milliseconds([cell for cell in mine.values() if cell.batch == batch]) for batch in sizes]
        table.add_row(escape(text), *errors, *times)
    return table


def domains_table(cells: Sequence[Cell]) -> Table:
    """Return a table of errors by domain: a row per domain, a column per pipeline.

    All cells must have the same protocol and batch size, and at least one must have runs.
    """
    shown = [cell for cell in cells if cell.runs]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Error in % by domain: {shown[0].protocol}, batch {shown[0].batch}",
        title_justify="left",
    )
    table.add_column("domain")
    for cell in shown:
        table.add_column(escape(cell.pipeline), justify="right", overflow="fold")
    for name in shown[0].errors:
        least = min(cell.errors[name] for cell in shown)
        table.add_row(
            escape(name), *(_marked(f"{cell.errors[name]:.1f}", cell.errors[name] == least) for cell in shown)
        )
    return table


def notes(cells: Sequence[Cell]) -> list[str]:
    """Return notes on pipelines: why one has no runs, or what it lacked on this model."""
    found = {f"{cell.pipeline}: {cell.refusal}" for cell in cells if cell.refusal}
    found |= {f"{cell.pipeline}: {run.degraded}" for cell in cells for run in cell.runs if run.degraded}
    return sorted(found)


def as_json(cells: Sequence[Cell], settings: Mapping[str, Any]) -> str:
    """Return the settings and all results as JSON, per seed, domain and part of the stream."""
    results = [
        {
            "spec": cell.pipeline,
            "protocol": cell.protocol,
            "batch": cell.batch,
            "error": cell.error,
            "standard_error": cell.standard_error,
            "source_error": cell.source_error,
            "worse_than_source": cell.worse_than_source,
            "refusal": cell.refusal or None,
            "runs": [asdict(run) for run in cell.runs],
        }
        for cell in cells
    ]
    return json.dumps(_finite({**settings, "results": results}), indent=1, allow_nan=False) + "\n"


def as_csv(cells: Sequence[Cell]) -> str:
    """Return one row per pipeline, protocol, batch size, seed and domain; the domain `*` stands for all images."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        start = (cell.pipeline, cell.protocol, cell.batch)
        if not cell.runs:
            writer.writerow((*start, "", "*", "", cell.source_error, "", cell.refusal))
        for run in cell.runs:
            for name, error in {"*": run.error, **run.errors}.items():
                source = cell.source_error if name == "*" else ""
                writer.writerow((*start, run.seed, name, error, source, run.milliseconds, ""))
    return file.getvalue()


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which diverged pipelines may have as signals, by None, because JSON has neither."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _caption(cells: Sequence[Cell]) -> str:
    lines = ["* the best of its column.", "ms: median time of a batch on one thread."]
    if any(len(cell.runs) > 1 for cell in cells):
        lines.insert(1, "±: standard error of the mean over the seeds.")
    if any(cell.worse_than_source for cell in cells):
        lines.append(f"{WORSE} worse than the frozen model: adapting does harm here.")
    if any(cell.refusal for cell in cells):
        lines.append("unfit: see below.")
    return "\n".join(lines)


def _error(cell: Cell, best: float) -> str:
    if not cell.runs:
        return "[dim]unfit[/]"
    spread = f" ±{cell.standard_error:.1f}" if len(cell.runs) > 1 else ""
    harm = WORSE if cell.worse_than_source else ""
    shown = f"{cell.error:.1f}{spread}{harm}"
    return f"[red]{shown}[/]" if harm else _marked(shown, cell.error == best)


def _marked(text: str, best: bool) -> str:
    return f"[bold]{text}*[/]" if best else text


def _milliseconds(cells: Sequence[Cell]) -> str:
    times = [cell.milliseconds for cell in cells if cell.runs]
    if not times:
        return "-"
    middle = sorted(times)[len(times) // 2]
    return f"{middle:.1f}" if middle < 10 else f"{middle:.0f}"
