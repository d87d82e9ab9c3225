"""Shell completion of ids from the server. It completes nothing if the server does not answer within a second."""

import os
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import typer

from service.cli.remote.connection import DEFAULT_URL, reach
from service.cli.remote.errors import MistakeError
from service.client import Client, RefusedError

TIMEOUT_SECONDS = 1.0
MOST_STREAMS = 10
"""Streams whose snapshots are listed if a command names no stream."""


def stream_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the stream ids with this prefix, each with its adapter and generation."""
    try:
        with _client(ctx) as client:
            return [
                (stream.id, f"{stream.adapter}, generation {stream.generation}")
                for stream in client.streams()
                if stream.id.startswith(incomplete)
            ]
    except (RefusedError, MistakeError):
        return []


def snapshot_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the snapshot ids with this prefix, of the stream on the command line or else of the first streams."""
    try:
        with _client(ctx) as client:
            return [
                (snapshot.id, f"{snapshot.stream}: {snapshot.name}")
                for stream in _streams(ctx, client)
                for snapshot in client.snapshots(stream)
                if snapshot.id.startswith(incomplete)
            ]
    except (RefusedError, MistakeError):
        return []


def _client(ctx: typer.Context) -> AbstractContextManager[Client]:
    """Return a client of the server that the typed options or the environment name."""
    url = ctx.params.get("url") or os.environ.get("ACCLIMATE_URL") or DEFAULT_URL
    key_file = ctx.params.get("key_file")
    return reach(str(url), Path(key_file) if key_file else None, TIMEOUT_SECONDS)


def _streams(ctx: typer.Context, client: Client) -> list[str]:
    named = ctx.params.get("stream")
    return [named] if named else [stream.id for stream in islice(client.streams(), MOST_STREAMS)]
