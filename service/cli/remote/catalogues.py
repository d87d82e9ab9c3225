"""Tables of models and parts, and the details of one."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from service.cli.output.formatting import DASH, pairs, size
from service.cli.output.tables import Column, facts, table
from service.client import AdapterPart, ModelView
from service.views.models import PipelineView

FOLDED = 32
SHOWN_CLASSES = 12
SHORT = 12
"""Digits of a fingerprint in a table."""


def models(listed: Sequence[ModelView], width: int) -> Table:
    """Return a table of models."""
    return table(
        [
            Column("model", [model.name for model in listed], folds_at=FOLDED),
            Column("version", [model.version for model in listed], 2),
            Column("adapter", [model.adapter for model in listed]),
            Column("input", [_input(model) for model in listed], 3),
            Column("classes", [str(len(model.classes)) for model in listed], 4, "right"),
            Column("backend", [model.backend for model in listed], 5),
            Column("fingerprint", [model.fingerprint[:SHORT] for model in listed], 6),
        ],
        width,
    )


def model(view: ModelView) -> Table:
    """Return the details of a model."""
    more = f" and {len(view.classes) - SHOWN_CLASSES} more" if len(view.classes) > SHOWN_CLASSES else ""
    rows: list[tuple[str, str | Text]] = [
        ("model", Text(f"{view.name} {view.version}", style="bold")),
        ("description", view.description or DASH),
        ("licence", view.licence or DASH),
        ("fingerprint", view.fingerprint),
        ("backend", view.backend),
        ("adapter", f"{view.adapter}, unless a stream names another"),
        ("input", f"{view.input.get('name', DASH)}: {_input(view)}, values in {view.input.get('value_range', DASH)}"),
        ("classes", f"{len(view.classes)}: {', '.join(view.classes[:SHOWN_CLASSES])}{more}"),
        ("artefacts", ", ".join(view.artefacts) or "none; `acclimate calibrate` makes them"),
    ]
    rows += [("pipeline", _pipeline(pipeline)) for pipeline in view.pipelines]
    return facts(rows)


def _input(view: ModelView) -> str:
    shape = ", ".join(map(str, view.input.get("shape", ())))
    return f"{view.input.get('datatype', '')} [N, {shape}]"


def _pipeline(pipeline: PipelineView) -> str:
    options = pairs(pipeline.options)
    said = f"{pipeline.adapter}, run by {pipeline.backend}, {size(pipeline.state_bytes)} a stream"
    return f"{said} ({options})" if options else said


def parts(listed: Sequence[AdapterPart], width: int) -> Table:
    """Return a table of parts."""
    return table(
        [
            Column("part", [part.name for part in listed]),
            Column("kind", [part.kind for part in listed]),
            Column("what it does", [part.summary for part in listed], 1, folds_at=FOLDED),
            Column("remembers", [part.remembers for part in listed], 3, folds_at=FOLDED),
            Column("needs", [", ".join(part.needs) or DASH for part in listed], 2, folds_at=FOLDED // 2),
        ],
        width,
    )


def part(view: AdapterPart) -> Table:
    """Return the details of a part, with one option per line."""
    rows: list[tuple[str, str | Text]] = [
        ("part", Text(view.name, style="bold")),
        ("kind", view.kind),
        ("does", view.summary),
        ("remembers", view.remembers or DASH),
        ("needs", ", ".join(view.needs) or DASH),
        ("paper", view.paper or DASH),
    ]
    options = view.options.get("properties", {})
    rows += [(f"{view.name}.{name}", _option(schema)) for name, schema in options.items()]
    return facts(rows if options else [*rows, ("options", "none")])


def _option(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    allowed = ", ".join(map(str, schema["enum"])) if "enum" in schema else _range(low, high)
    default = f"default {schema.get('default')}{f'; {allowed}' if allowed else ''}"
    return f"{schema.get('description', '')} ({default})"


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"
