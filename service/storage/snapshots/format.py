"""The snapshot file: safetensors with a canonical JSON manifest in its metadata, verified by sha256."""

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from service.errors import UnfitError
from service.monitoring.guard import Policy
from service.support.validation_messages import sentences
from service.types import LARGEST_BATCH, MAX_NOTE

MAX_HEADER_BYTES = 16 * 2**20
GREATEST_COUNT = 2**53
"""The largest count in a manifest: beyond it, JSON's numbers are not exact."""
END_OF_YEARS = 253_402_300_799.0
"""Unix seconds of the end of the year 9999, the last that calendars support."""
ALIGNED = 8
"""Alignment of the tensors' bytes in the file, in bytes."""


class Replay(BaseModel):
    """The settings that must be equal for a bit-equal replay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str
    threads: int
    torch: str
    onnxruntime: str


class Manifest(BaseModel):
    """A snapshot's description: its stream and model, and the settings that its replay depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["acclimate-snapshot-1"] = "acclimate-snapshot-1"
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
    kind: Literal["taken", "checkpoint", "shutdown"] = "taken"
    stream: Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")]
    name: Annotated[str, Field(max_length=128)]
    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""
    model: Annotated[str, Field(max_length=128)]
    fingerprint: Annotated[str, Field(max_length=64)]
    adapter: Annotated[str, Field(max_length=256)]
    options: dict[str, Any]
    mode: Literal["adapt", "frozen", "shadow"]
    guard: Policy = Policy()
    adapt_batch_size: Annotated[int, Field(ge=1, le=LARGEST_BATCH)]
    generation: Annotated[int, Field(ge=0, le=GREATEST_COUNT)]
    steps: Annotated[int, Field(ge=0, le=GREATEST_COUNT)]
    parent: Annotated[str, Field(max_length=64)] = ""
    created: Annotated[float, Field(ge=0, le=END_OF_YEARS)]
    contains_inputs: bool
    exact: bool = True
    halved: bool = False
    replay: Replay
    sha256: str = ""


def pack(manifest: Manifest, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the file of a manifest and named tensors, with the manifest's sha256 filled in."""
    head, body = _parts(safetensors.torch.save(dict(tensors)))
    header, stored = json.loads(head), manifest.model_dump()
    sealed = {**stored, "sha256": _digest(stored, _payload(header, body))}
    sealed_header = {"__metadata__": {"manifest": _canonical(sealed)}, **header}  # saves a second safetensors.save
    whole = json.dumps(sealed_header, ensure_ascii=False, separators=(",", ":")).encode()
    whole += b" " * (-len(whole) % ALIGNED)
    return struct.pack("<Q", len(whole)) + whole + body


def unpack(file: bytes) -> tuple[Manifest, dict[str, Tensor]]:
    """Read and verify a snapshot file.

    Raises:
        UnfitError: If it is not a snapshot, is truncated, or its sha256 does not match.
    """
    manifest = read_manifest(file)
    head, body = _parts(file)
    header = json.loads(head)
    stored = json.loads(header["__metadata__"]["manifest"])  # unparsed: an older version wrote fewer fields
    if _digest(stored, _payload(header, body)) != manifest.sha256:
        raise UnfitError("the snapshot's sha256 does not match its content: it was damaged or changed")
    try:
        return manifest, safetensors.torch.load(file)
    except (SafetensorError, ValueError) as error:
        raise UnfitError(f"the snapshot is no safetensors file: {error}") from None


def read_manifest(file: bytes) -> Manifest:
    """Read the manifest from a file's head.

    Raises:
        UnfitError: If there is none.
    """
    try:
        return parse_manifest(_manifest_text(file))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnfitError("the file is no snapshot: expected safetensors with a manifest in its metadata") from None


def parse_manifest(text: str) -> Manifest:
    """Read a manifest.

    Raises:
        UnfitError: If it is damaged, or in another version's format.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise UnfitError(f"the snapshot's manifest is wrong: {sentences(error.errors())}") from None


def header_length(head: bytes) -> int:
    """Return the length of the JSON header that follows a file's first eight bytes.

    Raises:
        UnfitError: If there are fewer than eight bytes, or the header exceeds 16 MiB.
    """
    if len(head) < 8:
        raise UnfitError("the file is no snapshot: it has fewer than 8 bytes")
    length = int(struct.unpack("<Q", head)[0])
    if length > MAX_HEADER_BYTES:
        raise UnfitError(f"the file is no snapshot: its header would have {length} bytes")
    return length


def _parts(file: bytes) -> tuple[bytes, bytes]:
    """Return a file's JSON header and the tensors' bytes."""
    end = 8 + header_length(file[:8])
    return file[8:end], file[end:]


def _payload(header: Mapping[str, Any], body: bytes) -> bytes:
    """Return the bytes to hash for the tensors: names, shapes and dtypes in canonical form, then their content."""
    described = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return json.dumps(described, sort_keys=True, separators=(",", ":")).encode() + body


def _manifest_text(file: bytes) -> str:
    text: str = json.loads(_parts(file)[0])["__metadata__"]["manifest"]
    return text


def _canonical(stored: Mapping[str, Any]) -> str:
    return json.dumps(stored, sort_keys=True, separators=(",", ":"))


def _digest(stored: Mapping[str, Any], payload: bytes) -> str:
    unsealed = {**stored, "sha256": ""}
    return hashlib.sha256(_canonical(unsealed).encode() + payload).hexdigest()
