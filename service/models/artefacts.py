"""The source artefacts of a bundle: safetensors files that record the model and the data they were made from."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from adapters.network.reference_statistics import REFERENCE
from service.errors import BundleError
from service.support.atomic_files import AS_UMASK, sync_folder, write_whole
from service.support.validation_messages import sentences

SUFFIX = ".safetensors"
RECORD = "acclimate"
"""The metadata key of a file's record."""
KEYED = re.compile(r"[^@]+(@[a-z0-9_]+(@[0-9]{1,9})?)?")
"""ARTEFACT, ARTEFACT@NORMALIZER or ARTEFACT@NORMALIZER@BATCH."""


class Record(BaseModel):
    """The model, data and settings that an artefact was made from. Fields of later versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    fingerprint: str
    images: Annotated[int, Field(ge=0)]
    data: str
    """The sha256 of the images and labels."""
    normalizer: str = ""
    batch: Annotated[int, Field(ge=0)] = 0
    reference: str = ""
    """The digest of the reference statistics under which a normalizer's artefact was made; "" for none."""
    version: str = ""

    def same(self, other: "Record | None") -> bool:
        """Return whether both are equal except for `version`: the same model, data and settings."""
        return other is not None and self.model_copy(update={"version": other.version}) == other


def read_artefacts(folder: Path, fingerprint: str) -> dict[str, Tensor]:
    """Read all tensors of a folder's `<file>.safetensors`, under the names `<file>.<tensor>`.

    Raises:
        BundleError: If a file is damaged, has a wrong name, holds NaN or infinity, or was made for another model or
            under other reference statistics.
    """
    artefacts: dict[str, Tensor] = {}
    digest = reference_digest(read_reference(folder))
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        if not KEYED.fullmatch(file.stem):
            raise BundleError(
                f"{file} is named wrongly, expected ARTEFACT, or ARTEFACT@NORMALIZER@BATCH as in fisher@batch@64"
            )
        record = read_record(file)
        if record is not None and record.fingerprint != fingerprint:
            raise BundleError(
                f"{file} was made for another model ({record.fingerprint[:12]}, this one is {fingerprint[:12]}); "
                "run `acclimate calibrate` to make it again, or remove it"
            )
        if record is not None and record.normalizer and record.reference != digest:
            raise BundleError(
                f"{file} was made under other reference statistics than those of {folder / (REFERENCE + SUFFIX)}; "
                "run `acclimate calibrate` to make it again, or remove it"
            )
        tensors = read_tensors(file)
        check_finite(tensors, str(file))
        artefacts.update({f"{file.stem}.{name}": tensor for name, tensor in tensors.items()})
    return artefacts


def read_reference(folder: Path) -> dict[str, Tensor]:
    """Return the reference statistics in a folder of artefacts, `<layer>.mean` and `.var`; {} if it has none.

    Raises:
        BundleError: If the file is damaged.
    """
    file = folder / f"{REFERENCE}{SUFFIX}"
    return read_tensors(file) if file.is_file() else {}


def reference_digest(reference: Mapping[str, Tensor]) -> str:
    """Return the sha256 of reference statistics; "" if there are none."""
    digest = hashlib.sha256()
    for name, tensor in sorted(reference.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest() if reference else ""


def read_record(file: Path) -> Record | None:
    """Return a file's record; None if it has none, such as a file made by hand.

    Raises:
        BundleError: If it is not a safetensors file, or its record is invalid.
    """
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(RECORD)
        return None if text is None else Record.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{file} has an invalid record of its origin: {sentences(error.errors())}") from None
    except SafetensorError as error:
        raise BundleError(f"{file} is no safetensors file: {error}") from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name.

    Raises:
        BundleError: If it is not a safetensors file.
    """
    try:
        return load(file.read_bytes())
    except SafetensorError as error:
        raise BundleError(f"{file} is no safetensors file: {error}") from None


def write_artefact(file: Path, tensors: Mapping[str, Tensor], record: Record) -> int:
    """Write an artefact's file atomically, and return its size in bytes.

    Raises:
        BundleError: If it cannot be written, or a tensor holds NaN or infinity.
    """
    check_finite(tensors, file.stem)
    # safetensors refuses tensors that share memory.
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = save(separate, metadata={RECORD: record.model_dump_json()})
    try:
        if not file.parent.is_dir():
            file.parent.mkdir(parents=True)
            sync_folder(file.parent.parent)
        write_whole(file, content, AS_UMASK, load)
    except OSError as error:
        raise BundleError(f"{file} cannot be written: {error.strerror}") from None
    return len(content)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that all tensors are finite; `where` names their file or artefact in the error.

    Raises:
        BundleError: If one holds NaN or infinity. The message names the first.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{where}: the tensor {name!r} holds NaN or infinity, expected finite numbers")
