"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from service.cli.remote.completion import snapshot_ids, stream_ids

Url: TypeAlias = Annotated[str, typer.Option("--url", envvar="ACCLIMATE_URL", help="The server's address.")]
KeyFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--key-file", help="A file that holds an API key; without it, the variable ACCLIMATE_KEY."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the server's JSON, for jq and scripts.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")]
IfGeneration: TypeAlias = Annotated[
    int | None,
    typer.Option("--if-generation", min=0, help="Do it only if the stream is at this generation."),
]
StreamId: TypeAlias = Annotated[str, typer.Argument(help="The stream's id.", autocompletion=stream_ids)]
SnapshotId: TypeAlias = Annotated[str, typer.Argument(help="The snapshot's id.", autocompletion=snapshot_ids)]
OfStream: TypeAlias = Annotated[
    str | None, typer.Option("--stream", help="Only events of this stream.", autocompletion=stream_ids)
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="An option of a part, as `tent.lr=1e-4`, or `seed=7`; may be repeated."),
]
Guard: TypeAlias = Annotated[
    list[str] | None, typer.Option("--guard", help="A rule of the guard, as `collapse=reset`; may be repeated.")
]
