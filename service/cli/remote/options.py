"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from service.cli.remote.completion import snapshot_ids, stream_ids

Url: TypeAlias = Annotated[str, typer.Option("--url", envvar="ACCLIMATE_URL", help="The server's address.")]
KeyFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--key-file", help="A file with an API key. Default: the variable ACCLIMATE_KEY."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the server's JSON, for jq and scripts.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")]
IfGeneration: TypeAlias = Annotated[
    int | None,
    typer.Option("--if-generation", min=0, help="Only act if the stream is at this generation."),
]
StreamId: TypeAlias = Annotated[str, typer.Argument(help="The stream's id.", autocompletion=stream_ids)]
SnapshotId: TypeAlias = Annotated[str, typer.Argument(help="The snapshot's id.", autocompletion=snapshot_ids)]
OfStream: TypeAlias = Annotated[
    str | None, typer.Option("--stream", help="Only events of this stream.", autocompletion=stream_ids)
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="A part's option, such as `tent.lr=1e-4`, or `seed=7`; may be repeated."),
]
Guard: TypeAlias = Annotated[
    list[str] | None, typer.Option("--guard", help="A rule of the guard, such as `collapse=reset`; may be repeated.")
]
