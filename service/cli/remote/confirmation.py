"""Asks for confirmation before something is lost."""

import sys

import typer

from service.cli.output.formatting import age, counted, size
from service.cli.remote.errors import MistakeError
from service.client import Client, SnapshotView, StreamView


def confirm(loss: str, *, yes: bool) -> None:
    """Ask whether to go on; `loss` describes the loss.

    Raises:
        MistakeError: If there is no terminal to ask at, and `--yes` is not set.
        typer.Abort: If the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise MistakeError(f"{loss} There is no terminal to ask at: nothing was done; --yes does it without asking")
    typer.confirm(f"{loss} Go on?", abort=True, err=True)


def loss_of_state(client: Client, stream: StreamView, change: str) -> str:
    """Describe a stream's loss when its state is replaced, and the snapshot it could be restored from."""
    newest = next(client.snapshots(stream.id), None)
    kept = f"Its newest snapshot is {described(newest)}." if newest else "It has no snapshot."
    learned = f"generation {stream.generation}, {counted(stream.steps, 'step')}"
    return f"{stream.id} {change}; what it has learned is lost: {learned}. {kept}"


def described(snapshot: SnapshotView) -> str:
    """Describe a snapshot in a few words."""
    learned = f"generation {snapshot.generation}, {counted(snapshot.steps, 'step')}"
    return f"{snapshot.id} ({snapshot.name}: {learned}, {size(snapshot.bytes)}, {age(snapshot.created)})"
