"""`acclimate snapshots`: list, take, show, restore, delete, download, upload."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from service.cli.output import lists
from service.cli.output.formatting import counted, size
from service.cli.output.printing import print_list, print_one, say
from service.cli.remote import details
from service.cli.remote.confirmation import confirm, described, loss_of_state
from service.cli.remote.connection import DEFAULT_URL, reach
from service.cli.remote.errors import MistakeError
from service.cli.remote.existence import checked
from service.cli.remote.options import AsJson, IfGeneration, KeyFile, SnapshotId, StreamId, Url, Yes
from service.client import Restored
from service.support.atomic_files import AS_UMASK, write_whole

app = typer.Typer(help="Save streams' states, and go back to them.", no_args_is_help=True)


@app.command("list")
def list_snapshots(stream: StreamId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """List a stream's snapshots, newest first, also those of an ended stream.

    Example: `acclimate snapshots list camera-7 --json | jq -r '.[0].id'`
    """
    none = f"{stream} has no snapshots; `acclimate snapshots take {stream}` takes one."
    with reach(url, key_file) as client:
        listed = checked(client, stream, client.snapshots(stream))
        print_list(listed, lists.snapshots, none, as_json=as_json)


@app.command()
def take(
    stream: StreamId,
    name: Annotated[str | None, typer.Option(help="The snapshot's name. Default: the generation.")] = None,
    note: Annotated[str, typer.Option(help="A note, such as the reason for taking it.")] = "",
    drop_inputs: Annotated[
        bool, typer.Option("--drop-inputs", help="Leave out all images of the stream; replay is then less exact.")
    ] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Save a stream's state as a snapshot.

    Example: `acclimate snapshots take camera-7 --name before-winter --note 'good for months'`
    """
    settings = {"note": note, "inputs": "drop" if drop_inputs else "keep"} | ({"name": name} if name else {})
    with reach(url, key_file) as client:
        print_one(client.take(stream, settings), details.snapshot, as_json=as_json)


@app.command()
def show(snapshot: SnapshotId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show a snapshot's manifest.

    Example: `acclimate snapshots show 919b827a77f65b5801bc435d`
    """
    with reach(url, key_file) as client:
        print_one(client.snapshot(snapshot), details.snapshot, as_json=as_json)


@app.command()
def restore(
    stream: StreamId,
    snapshot: SnapshotId,
    if_generation: IfGeneration = None,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Continue a stream from a snapshot of itself or of another stream with the same model and spec.

    Example: `acclimate snapshots restore camera-7 919b827a77f65b5801bc435d`
    """
    with reach(url, key_file) as client:
        found = client.snapshot(snapshot)
        client.restore(stream, snapshot, if_generation, dry_run=True)
        what = f"continues from snapshot {described(found)}"
        confirm(loss_of_state(client, client.stream(stream), what), yes=yes)
        print_one(client.restore(stream, snapshot, if_generation), _restored, as_json=as_json)


def _restored(stream: Restored) -> str:
    learned = f"generation {stream.generation}, {counted(stream.steps, 'step')}"
    warning = f"; {stream.tta_warning}" if stream.tta_warning else ""
    return f"{stream.id} continues from the snapshot: {learned}{warning}"


@app.command()
def delete(snapshot: SnapshotId, yes: Yes = False, url: Url = DEFAULT_URL, key_file: KeyFile = None) -> None:
    """Delete a snapshot for good.

    Example: `acclimate snapshots delete 919b827a77f65b5801bc435d`
    """
    with reach(url, key_file) as client:
        found = client.snapshot(snapshot)
        confirm(f"Snapshot {described(found)} of {found.stream} is removed for good.", yes=yes)
        client.delete_snapshot(snapshot)
        say(f"{snapshot} is removed")


@app.command()
def download(
    snapshot: SnapshotId,
    file: Annotated[
        Path | None, typer.Argument(help="The file to write; `-` for standard output. Default: ID.safetensors.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
) -> None:
    """Write a snapshot to a file: one safetensors file that includes its manifest.

    Example: `acclimate snapshots download 919b827a77f65b5801bc435d winter.safetensors`
    """
    target = Path(f"{snapshot}.safetensors") if file is None else file
    to_output = str(target) == "-"
    if target.exists() and not (force or to_output):
        raise MistakeError(f"the file {target} exists; name another, or overwrite it by --force")
    with reach(url, key_file) as client:
        content = client.download(snapshot)
    if to_output:
        sys.stdout.buffer.write(content)
        return
    try:
        write_whole(target, content, AS_UMASK, lambda _: None)
    except OSError as error:
        raise MistakeError(f"{target} cannot be written: {error.strerror}") from None
    say(f"wrote {target}, {size(len(content))}")


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="A snapshot file; `-` for standard input.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Upload a snapshot file to a server, so that streams there can be restored from it.

    Example: `acclimate snapshots upload winter.safetensors --url http://models:8000`
    """
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise MistakeError(f"{file} cannot be read: {error.strerror}; expected a snapshot file") from None
    with reach(url, key_file) as client:
        print_one(client.upload(content), details.snapshot, as_json=as_json)
