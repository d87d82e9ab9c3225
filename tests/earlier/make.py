"""Write a small store with the version of Acclimate that is checked out, for later versions to open.

Run it once whenever a migration is added, before anything else changes, from the root of the repository:

    python -m tests.earlier.make tests/earlier/REVISION.tar.xz

It writes the data folder, and `expected.json`, what that version held in memory when it stopped.
For a version that lacks this file, copy it into a checkout of that version first.
"""

import json
import sqlite3
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from adapters.state import flatten
from tests.applications import application
from tests.bundles import torch_bundle

EAGER = {"distance": "reset", "max_distance": 1e-6}
"""A guard that goes back at the first step, and pauses for 32 requests."""
STREAMS = {
    "source": {"adapter": "source"},
    "tent": {"adapter": "batch+tent", "durability": "sync"},
    "unmixed": {"adapter": "unmix_tns+eta+lame"},
    "rotta": {"adapter": "rotta", "options": {"rotta": {"capacity": 8, "period": 8}}},
    "note": {"adapter": "note", "options": {"note": {"capacity": 8, "period": 8}}},
    "window": {"adapter": "batch+tent", "adapt_batch_size": 8},
    "paused": {"adapter": "batch+tent", "guard": EAGER},
}
ROUNDS = 12


def images(count: int, seed: int) -> np.ndarray:
    """Return made images (count, 3, 16, 16)."""
    return np.random.default_rng(seed).random((count, 3, 16, 16), dtype=np.float32)


def last_request(name: str) -> tuple[np.ndarray, str, str]:
    """Return the last request of a stream: images, stream, request id."""
    return images(3, ROUNDS), name, "last"


def filled(api) -> dict:
    """Fill a running application's store; return what is in memory at the end."""
    answers = {}
    for name, settings in STREAMS.items():
        api.create(id=name, **settings)
        for seed in range(ROUNDS if name != "paused" else 0):
            api.infer(images(3, seed), name)
        answers[name] = api.infer(*last_request(name))
    taken = api("POST", "/v1/streams/tent/snapshots", json={"name": "kept"}).json()
    streams = {}
    for stream in api.app.state.services.residence.table:
        streams[stream.id] = {
            "generation": stream.generation,
            "steps": stream.steps,
            "waiting": len(stream.state.window),
            "monitors": {key: tensor.tolist() for key, tensor in flatten(stream.state.monitors).items()},
            "answer": answers[stream.id],
        }
    return {"streams": streams, "snapshot": {"id": taken["id"], "generation": taken["generation"]}}


def make(target: Path) -> None:
    """Write a store and what is expected of it to an archive."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = torch_bundle(folder / "reference")
        with application(folder, bundle) as api:
            expected = filled(api)
        database = sqlite3.connect(folder / "data" / "acclimate.db", isolation_level=None)
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("VACUUM")
        database.close()
        (folder / "data" / "expected.json").write_text(json.dumps(expected))
        with tarfile.open(target, "w:xz") as archive:
            for part in ("expected.json", "acclimate.db", "checkpoints", "snapshots"):
                archive.add(folder / "data" / part, part)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
