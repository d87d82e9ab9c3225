"""`acclimate feedback`: sends the true labels of earlier requests, and shows a stream's accuracy."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.output.formatting import DASH, counted, share
from service.cli.output.printing import print_one
from service.cli.output.tables import facts
from service.cli.remote.connection import DEFAULT_URL, reach
from service.cli.remote.errors import MistakeError
from service.cli.remote.options import AsJson, KeyFile, StreamId, Url
from service.client import FeedbackView, RefusedError

JSON_FORM = '{"REQUEST": ["LABEL", 3]}'
FORM = "REQUEST=LABEL,LABEL,..., such as r1=Coat,Bag"
Labels = dict[str, list[str | int]]


def feedback(
    stream: StreamId,
    labels: Annotated[
        list[str] | None,
        typer.Argument(help="REQUEST=LABEL,LABEL,...: one label for each image, a class's name or number."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help='A JSON file {"REQUEST": ["LABEL", 3]}, or `-` for standard input.'),
    ] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Give the true labels of earlier requests, by the ids in their answers, and show the stream's accuracy.

    Example: `acclimate feedback camera-7 r1=Coat,Bag r2=Sandal`
    """
    requests = (_read(file) if file is not None else {}) | dict(_parsed(text) for text in labels or ())
    if not requests:
        raise MistakeError(f"no labels are given; expected {FORM}, or --file FILE")
    with reach(url, key_file) as client:
        view = client.feedback(stream, requests)
        if not view.accepted:
            raise RefusedError(f"no label was accepted: {stream!r} knows none of the requests, or has their labels")
        print_one(view, _shown, as_json=as_json)


def _parsed(text: str) -> tuple[str, list[str | int]]:
    request, equals, labels = text.rpartition("=")
    if not (request and equals and labels):
        raise MistakeError(f"the label is {text!r}, expected {FORM}")
    return request, [_label(label) for label in labels.split(",")]


def _label(text: str) -> str | int:
    label = text.strip()
    return int(label) if label.isascii() and label.isdecimal() else label


def _read(file: Path) -> Labels:
    """Return the labels in a JSON file.

    Raises:
        MistakeError: If it cannot be read, or does not have the form that `--help` shows.
    """
    try:
        read = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MistakeError(f"{file} cannot be read ({_fault(error)}); expected JSON: {JSON_FORM}") from None
    if not isinstance(read, dict) or not all(isinstance(labels, list) and labels for labels in read.values()):
        raise MistakeError(f"{file} has other JSON, expected {JSON_FORM}")
    return read


def _fault(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) else str(error)


def _shown(view: FeedbackView) -> Table:
    rows = [
        ("taken", f"labels of {counted(view.accepted, 'image')}; {counted(view.images, 'image')} so far"),
        ("not taken", ", ".join(view.unknown) or DASH),
        ("accuracy", f"{share(view.accuracy)}, of late {share(view.recent_accuracy)}"),
        ("source model", share(view.source_accuracy)),
    ]
    for name, estimate in view.estimates.items():
        rows.append((f"estimated by {name}", f"{share(estimate)}, {share(view.errors.get(name))} off"))
    return facts(rows)
