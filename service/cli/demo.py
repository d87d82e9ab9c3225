"""`acclimate demo`: a tour of a server with a drifting stream."""

from contextlib import nullcontext
from typing import Annotated

import typer

from service.cli.remote.connection import address, read_key
from service.cli.remote.options import KeyFile
from service.demo.tour import own_server, tour

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def demo(
    url: Annotated[str | None, typer.Option(help="A running server. Default: start one for the demo.")] = None,
    key_file: KeyFile = None,
    adapter: Annotated[str | None, typer.Option(help="The adapting stream's spec. Default: the model's.")] = None,
    images: Annotated[int, typer.Option(min=1, max=2500, help="Images per domain.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images per request.")] = 50,
    severity: Annotated[int, typer.Option(min=1, max=5, help="Severity of the corruptions.")] = 4,
) -> None:
    """Send a drifting stream to a frozen and an adapting stream, and compare their errors.

    Afterwards the adapting stream is reset, snapshotted and restored.
    """
    with nullcontext(url) if url else own_server() as running:
        tour(address(running), read_key(key_file) if url else None, adapter, images, batch, severity)
