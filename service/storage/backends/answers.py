"""An answer as bytes and back, to be kept for retries."""

import json
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from service.types import InferResponse


@dataclass(frozen=True, slots=True)
class Kept:
    """An answered request that a retry is answered by."""

    request: str
    key: str
    digest: str
    content: bytes

    @property
    def identity(self) -> tuple[str, str, str]:
        """What identifies the request: id, idempotency key, digest of the body."""
        return self.request, self.key, self.digest


def packed(response: InferResponse) -> bytes:
    """Return an answer as safetensors, whose metadata holds what is no array."""
    told = {
        "model": response.model, "version": response.version, "id": response.id,
        "parameters": dict(response.parameters), "outputs": list(response.outputs),
    }  # fmt: skip
    arrays = {name: np.ascontiguousarray(array) for name, array in response.outputs.items()}
    return save(arrays, metadata={"answer": json.dumps(told)})


def unpacked(content: bytes) -> InferResponse:
    """Return the answer that was packed."""
    length = int.from_bytes(content[:8], "little")
    told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["answer"])
    arrays = load(content)
    outputs = {name: arrays[name] for name in told.pop("outputs")}
    return InferResponse(**told, outputs=outputs)
