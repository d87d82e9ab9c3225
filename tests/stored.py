"""What tests see of an application's store, and do to its streams."""

import asyncio
import sqlite3
import time

PATIENCE = 60.0
"""Seconds to wait for what must happen, on a slow and busy machine too."""


def wait(api, until):
    """Wait until something holds of the application, whose own tasks go on meanwhile."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end
        api._runner.run(asyncio.sleep(0.02))


def rest(api, *ids):
    """Put streams to rest."""
    residence = api.app.state.services.residence
    streams = [residence.table.find(stream_id) for stream_id in ids]

    async def put():
        for taken in await residence._keeper.keep(streams, final=True):
            residence._rest(taken)

    api._runner.run(put())
    assert all(residence.table.find(stream_id) is None for stream_id in ids)


def catalogue(tmp_path, query):
    connection = sqlite3.connect(tmp_path / "data" / "acclimate.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def copied(tmp_path, name="copy"):
    """Return a folder with the data as a crash would leave it: the files as they are now."""
    target = tmp_path / name
    source = sqlite3.connect(tmp_path / "data" / "acclimate.db")
    (target / "data" / "checkpoints").mkdir(parents=True)
    into = sqlite3.connect(target / "data" / "acclimate.db")
    source.backup(into)
    source.close()
    into.close()
    for file in (tmp_path / "data" / "checkpoints").iterdir():
        (target / "data" / "checkpoints" / file.name).write_bytes(file.read_bytes())
    return target
