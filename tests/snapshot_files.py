"""Snapshot files that tests make, whole or patched."""

import json
import struct

import torch

from service.storage.snapshots.format import Manifest, Replay, pack

REPLAY = Replay(backend="torch", threads=1, torch="2", onnxruntime="1")


TENSORS = {"adapter/steps": torch.tensor(3), "window": torch.arange(6, dtype=torch.uint8).reshape(2, 3)}


def manifest(snapshot_id="0" * 24, **changes):
    facts = {
        "id": snapshot_id, "stream": "s", "name": "n", "model": "m", "fingerprint": "f", "adapter": "batch",
        "options": {}, "mode": "adapt", "adapt_batch_size": 1, "generation": 4, "steps": 3, "created": 1.5,
        "contains_inputs": True, "replay": REPLAY,
    }  # fmt: skip
    return Manifest(**facts | changes)


SMALL = pack(manifest(), TENSORS)


def parts(file):
    """The length, the JSON header and the tensors of a file."""
    length = struct.unpack("<Q", file[:8])[0]
    return length, json.loads(file[8 : 8 + length]), file[8 + length :]


def joined(header, payload):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload
