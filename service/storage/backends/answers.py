"""Packs an answer into bytes, to keep it for retries, and unpacks it."""

import json
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from service.types import InferResponse


@dataclass(frozen=True, slots=True)
class Kept:
    """An answered request, kept to answer its retries."""

    request: str
    key: str
    digest: str
    content: bytes

    @property
    def identity(self) -> tuple[str, str, str]:
        """The request's identity: its id, its idempotency key, the digest of its body."""
        return self.request, self.key, self.digest


def packed(response: InferResponse) -> bytes:
    """Return an answer as safetensors bytes. The metadata holds everything that is not an array."""
    metadata = {
        "model": response.model, "version": response.version, "id": response.id,
        "parameters": dict(response.parameters), "outputs": list(response.outputs),
    }  # fmt: skip
    arrays = {name: np.ascontiguousarray(array) for name, array in response.outputs.items()}
    return save(arrays, metadata={"answer": json.dumps(metadata)})


def unpacked(content: bytes) -> InferResponse:
    """Return the answer that `packed` returned as bytes."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["answer"])
    arrays = load(content)
    outputs = {name: arrays[name] for name in metadata.pop("outputs")}
    return InferResponse(**metadata, outputs=outputs)
