"""Lists of streams, snapshots and events as tables."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from service.cli.output.formatting import DASH, age, figure, moment, share, size
from service.cli.output.tables import Column, plain, table
from service.client import EventView, SnapshotView, StreamRow, StreamView

COLOURS: Mapping[str, str] = {
    "steady": "green",
    "drifting": "yellow",
    "guarded": "red",
    "suspected": "red",
    "held": "red",
    "frozen": "cyan",
    "shadow": "magenta",
    "drift": "yellow",
    "guard": "red",
    "collapse": "red",
}
FOLDED_ID = 20
"""Longest id or name that never wraps."""
FOLDED_REASON = 32


def streams(listed: Sequence[StreamView], rows: Mapping[str, StreamRow], width: int) -> Table:
    """Return a table of streams; `rows` are their rows of the overview, by id."""
    columns = [
        Column("stream", [stream.id for stream in listed], folds_at=FOLDED_ID),
        *_models(listed),
        Column("adapter", [stream.adapter for stream in listed]),
        Column("state", [coloured(badge(stream, rows)) for stream in listed]),
        Column("generation", [str(stream.generation) for stream in listed], 2, "right"),
        Column("entropy", [figure(stream.signals.get("entropy")) for stream in listed], 1, "right"),
        Column("drift", [figure(stream.signals.get("drift")) for stream in listed], 3, "right"),
        Column("agreement", [share(stream.signals.get("source_agreement")) for stream in listed], 4, "right"),
        Column("gap", [figure(gap(stream, rows)) for stream in listed], 7, "right"),
        Column("size", [size(stream.state_bytes) for stream in listed], 6, "right"),
        Column("kept", [kept(stream) for stream in listed], 9),
        Column("used", [age(stream.last_used) for stream in listed], 5),
    ]
    return table(columns, width)


def _models(listed: Sequence[StreamView]) -> list[Column]:
    """Return the column of models if there are several."""
    models = [stream.model for stream in listed]
    return [Column("model", models, 8)] if len(set(models)) > 1 else []


def kept(stream: StreamView) -> str:
    """Return a stream's durability, and its place."""
    return f"{stream.durability}, {'in memory' if stream.resident else 'on disk'}"


def badge(stream: StreamView, rows: Mapping[str, StreamRow]) -> str:
    """Return a stream's badge, or its mode if the overview does not list it."""
    return rows[stream.id].badge if stream.id in rows else stream.mode


def gap(stream: StreamView, rows: Mapping[str, StreamRow]) -> float | None:
    """Return a stream's gap to the source model; None if it was not measured."""
    return rows[stream.id].source_gap if stream.id in rows else None


def coloured(word: str) -> Text:
    """Return a word in its colour."""
    return Text(word, style=COLOURS.get(word, ""))


def snapshots(listed: Sequence[SnapshotView], width: int) -> Table:
    """Return a table of snapshots."""
    columns = [
        Column("snapshot", [snapshot.id for snapshot in listed]),
        Column("name", [snapshot.name for snapshot in listed], folds_at=FOLDED_ID),
        Column("adapter", [snapshot.adapter for snapshot in listed], 3),
        Column("generation", [str(snapshot.generation) for snapshot in listed], 1, "right"),
        Column("steps", [str(snapshot.steps) for snapshot in listed], 4, "right"),
        Column("size", [size(snapshot.bytes) for snapshot in listed], 2, "right"),
        Column("taken", [age(snapshot.created) for snapshot in listed]),
    ]
    if any(snapshot.note for snapshot in listed):
        columns.append(Column("note", [snapshot.note for snapshot in listed], 5, folds_at=FOLDED_ID))
    return table(columns, width)


def events(listed: Sequence[EventView], width: int) -> Table:
    """Return a table of events; reasons wrap."""
    columns = [
        Column("id", [str(event.id) for event in listed], 1, "right"),
        Column("time", [moment(event.time) for event in listed]),
        Column("stream", [event.stream or DASH for event in listed], folds_at=FOLDED_ID),
        Column("kind", [coloured(event.kind) for event in listed]),
        Column("why", [why(event) for event in listed], folds_at=FOLDED_REASON),
    ]
    return table(columns, width)


def event_line(event: EventView) -> Text:
    """Return an event on one line."""
    said = Text(f"{moment(event.time)}  ", style="dim")
    said.append(event.stream or DASH, style="bold not dim")
    said.append("  ").append(Text(event.kind, style=f"{COLOURS.get(event.kind, 'default')} not dim"))
    return said.append(f"  {plain(why(event)).plain}", style="not dim")


def why(event: EventView) -> str:
    """Return an event's reason, and the action taken."""
    done = event.action.replace("_", " ")
    return f"{event.reason} ({done})" if done and done != event.kind else event.reason
