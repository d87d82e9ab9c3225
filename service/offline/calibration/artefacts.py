"""Makes the planned artefacts one by one. It keeps existing ones, and skips those that the model does not support."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapters import SourceModel
from adapters.errors import UnfitModelError
from adapters.network.reference_statistics import REFERENCE, with_reference
from service.errors import BundleError
from service.models.artefacts import (
    SUFFIX,
    Record,
    check_finite,
    read_record,
    read_reference,
    read_tensors,
    reference_digest,
    write_artefact,
)
from service.models.bundle import Bundle
from service.offline.calibration.plan import PROBE, Work


@dataclass(frozen=True)
class Result:
    """The result for one artefact: `outcome` is made, kept, skipped or foreign; `reason` says why it was not made."""

    name: str
    outcome: str
    reason: str = ""
    record: Record | None = None
    size_bytes: int = 0


def make(folder: Path, work: Work, advance: Callable[[float], None], *, again: bool) -> Result:
    """Make one artefact. Keep an existing file with the same record, unless `again` is True.

    Raises:
        BundleError: If the file cannot be written.
    """
    file = folder / f"{work.name}{SUFFIX}"
    if not again and work.record.same(_record_of(file)):
        return Result(work.name, "kept", "made earlier from the same data", work.record, file.stat().st_size)
    try:
        tensors = work.make(advance)
        check_finite(tensors, work.name)
    except (UnfitModelError, BundleError) as error:
        return Result(work.name, "skipped", str(error))
    return Result(work.name, "made", "", work.record, write_artefact(file, tensors, work.record))


def kept_probe(bundle: Bundle) -> Tensor | None:
    """Return the images of a bundle's probe set; None if it has none, or one that was made for another model.

    Raises:
        BundleError: If its file is damaged.
    """
    file = bundle.artefacts_folder / f"{PROBE}{SUFFIX}"
    if not file.is_file() or _is_foreign(file, bundle.fingerprint):
        return None
    return read_tensors(file).get("images", torch.zeros(0, dtype=torch.uint8))


def under_own_reference(bundle: Bundle, source: SourceModel) -> SourceModel:
    """Return a bundle's model under the bundle's reference statistics, if it has some that were made for this model.

    Raises:
        BundleError: If their file is damaged.
    """
    file = bundle.artefacts_folder / f"{REFERENCE}{SUFFIX}"
    if not file.is_file() or _is_foreign(file, bundle.fingerprint):
        return source
    return with_reference(source, read_tensors(file))


def probe_result(bundle: Bundle, images: Tensor) -> Result:
    """Return the result for a probe set that is kept."""
    file = bundle.artefacts_folder / f"{PROBE}{SUFFIX}"
    record = read_record(file) or Record(fingerprint=bundle.fingerprint, images=len(images), data="")
    return Result(PROBE, "kept", "--probe N makes another", record, file.stat().st_size)


def foreign(bundle: Bundle) -> Iterator[Result]:
    """Yield the artefacts that were made for another model or under other reference statistics.

    With any of them, the bundle cannot be served.
    """
    for record, file in _records(bundle):
        if record.fingerprint != bundle.fingerprint:
            reason = "made for another model: remove it, or make it again with --learner and --normalizer"
            yield Result(file.stem, "foreign", reason, record, file.stat().st_size)
    for file in outdated(bundle):
        reason = "made under other reference statistics: remove it, or make it again with --learner and --normalizer"
        yield Result(file.stem, "foreign", reason, _record_of(file), file.stat().st_size)


def outdated(bundle: Bundle) -> list[Path]:
    """Return the artefacts of this model that were made under other reference statistics than the bundle's."""
    reference = reference_digest(read_reference(bundle.artefacts_folder))
    return [
        file
        for record, file in _records(bundle)
        if record.fingerprint == bundle.fingerprint and record.normalizer and record.reference != reference
    ]


def _records(bundle: Bundle) -> Iterator[tuple[Record, Path]]:
    for file in sorted(bundle.artefacts_folder.glob(f"*{SUFFIX}")):
        record = _record_of(file)
        if record is not None:
            yield record, file


def _is_foreign(file: Path, fingerprint: str) -> bool:
    record = _record_of(file)
    return record is not None and record.fingerprint != fingerprint


def _record_of(file: Path) -> Record | None:
    """Return a file's record; None if there is no such file, or it is damaged and must be made again."""
    try:
        return read_record(file) if file.is_file() else None
    except BundleError:
        return None
