"""The details of one stream or snapshot."""

from rich.table import Table
from rich.text import Text

from service.cli.output.formatting import DASH, age, counted, figure, moment, pairs, share, size
from service.cli.output.lists import coloured, kept
from service.cli.output.tables import facts
from service.client import SnapshotView, StreamRow, StreamView

WITH_OWN_LINE = frozenset(
    {"entropy", "drift", "source_agreement", "source_age", "estimated_accuracy", "source_estimated_accuracy"}
)
"""Signals with a line of their own."""


def stream(view: StreamView, row: StreamRow | None) -> Table:
    """Return the details of a stream; `row` is its row of the overview."""
    rows: list[tuple[str, str | Text]] = [("stream", Text(view.id, style="bold"))]
    if row is not None:
        rows.append(("state", coloured(row.badge).append(f": {row.reason}" if row.reason else "", style="default")))
        rows.append(("served", f"{counted(row.requests, 'request')}, {counted(row.images, 'image')}"))
    rows += [
        ("model", view.model),
        ("adapter", view.adapter),
        ("options", pairs(view.options) or "the adapter's own"),
        ("mode", f"{view.mode}; {_batch(view)}"),
        ("learned", _learned(view)),
        ("size", size(view.state_bytes)),
        ("created", f"{age(view.created)}, last used {age(view.last_used)}"),
    ]
    rows.append(("kept", kept(view)))
    rows += [("request ids", "refused if they come again with another body")] if view.idempotent else []
    rows += _signals(view, row)
    rows += [("choice", view.choice)] if view.choice else []
    rows += _shadow(view)
    rows.append(("guard", pairs(view.guard)))
    return facts(rows)


def _batch(view: StreamView) -> str:
    if view.adapt_batch_size == 1:
        return "a step for each request"
    waiting = f", {view.waiting_images} waiting" if view.waiting_images else ""
    return f"a step for every {view.adapt_batch_size} images{waiting}"


def _learned(view: StreamView) -> str:
    said = f"generation {view.generation}, {counted(view.steps, 'step')}"
    return f"{said}; safe from a crash up to generation {view.durable_generation}"


def _signals(view: StreamView, row: StreamRow | None) -> list[tuple[str, str | Text]]:
    signals = view.signals
    aged = f", {counted(int(signals['source_age']), 'request')} ago" if signals.get("source_age") else ""
    agreement = share(signals.get("source_agreement"))
    accuracy = share(signals.get("estimated_accuracy"))
    others = {name: figure(value) for name, value in signals.items() if name not in WITH_OWN_LINE}
    return [
        ("entropy", f"{figure(signals.get('entropy'))} nats"),
        ("drift", figure(signals.get("drift"))),
        ("agreement", f"{agreement} with the source model{aged}" if agreement != DASH else DASH),
        ("gap", _gap(row)),
        ("accuracy", f"estimated {accuracy}, of the source model {share(signals.get('source_estimated_accuracy'))}"),
        ("signals", pairs({**others}) or DASH),
    ]


def _gap(row: StreamRow | None) -> str:
    if row is None or row.source_gap is None:
        return "not measured yet"
    return f"{figure(row.source_gap)} of the source model's accuracy on the probe set is lost"


def _shadow(view: StreamView) -> list[tuple[str, str | Text]]:
    if view.shadow is None:
        return []
    shadow = view.shadow
    moves = ", ".join(f"{move['source']} > {move['adapted']} ({move['images']})" for move in shadow.moves)
    entropy = f"entropy {figure(shadow.entropy)} in place of {figure(shadow.source_entropy)}"
    said = f"adapting would change {share(shadow.changed)} of {counted(shadow.images, 'image')}; {entropy}"
    return [("shadow", said), ("changes", moves or DASH)]


def snapshot(view: SnapshotView) -> Table:
    """Return the details of a snapshot."""
    replay = "bit for bit" if view.exact else "not exactly: images that waited were left out"
    return facts(
        [
            ("snapshot", Text(view.id, style="bold")),
            ("name", view.name),
            ("note", view.note or DASH),
            ("stream", view.stream),
            ("model", f"{view.model}, fingerprint {view.fingerprint}"),
            ("adapter", view.adapter),
            ("learned", f"generation {view.generation}, {counted(view.steps, 'step')}"),
            ("taken", f"{age(view.created)}, at {moment(view.created)}"),
            ("size", size(view.bytes)),
            ("sha256", view.sha256),
            ("images", "holds images of the stream" if view.contains_inputs else "holds no images of the stream"),
            ("replays", replay),
        ]
    )
