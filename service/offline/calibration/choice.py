"""Chooses the source images: a probe set, and other images for everything else, both balanced by class."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters import SourceImages
from service.errors import UnfitError
from service.offline.calibration.data import SourceData

SEED = 0
READ_AT_ONCE = 256


@dataclass(frozen=True)
class Chosen:
    """The chosen images.

    Attributes:
        probe: The new probe set; None if none is made.
        why_no_probe: Why none can be made; "" if one is made or kept.
        images: The images for all other artefacts.
    """

    probe: SourceImages | None
    why_no_probe: str
    images: SourceImages


def choose(data: SourceData, images: int, probe: int, kept_probe: Tensor | None) -> Chosen:
    """Choose the probe set, and other images that are not in it.

    Args:
        data: The source data.
        images: Most images for the other artefacts.
        probe: Images of the probe set. It has fewer if a class has too few.
        kept_probe: The images of an existing probe set, (n, C, H, W) uint8. No new one is chosen then.

    Raises:
        UnfitError: If all images are in the probe set, or one cannot be read.
    """
    order = turns(data)
    rows, why = ([], "") if kept_probe is not None else _probe_rows(data, order, probe)
    new_probe = data.read(rows) if rows else None
    probe_images = new_probe.images if new_probe is not None else kept_probe
    others = _others(data, order, images, set() if probe_images is None else set(map(digest_of, probe_images)))
    return Chosen(new_probe, why, others)


def turns(data: SourceData) -> list[int]:
    """Return all rows in a seeded order. The classes take turns, and a class drops out when its images are used up."""
    shuffled = torch.randperm(data.count, generator=torch.Generator().manual_seed(SEED))
    if not len(data.labels):
        return shuffled.tolist()
    place = torch.zeros(data.count, dtype=torch.int64)
    labels = data.labels[shuffled]
    for label in range(data.classes):
        mine = labels == label
        place[mine] = torch.arange(int(mine.sum()))
    # Sorted by round, and by class within a round.
    return shuffled[torch.argsort(place * data.classes + labels)].tolist()


def digest_of(image: Tensor) -> bytes:
    """Return the sha256 of an image (C, H, W) uint8."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).digest()


def digest(data: SourceImages) -> str:
    """Return the sha256 of images, labels and value range."""
    head = f"{tuple(data.images.shape)} {data.images.dtype} {data.value_range} {data.labels.tolist()}"
    whole = hashlib.sha256(head.encode())
    whole.update(data.images.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _probe_rows(data: SourceData, order: Sequence[int], images: int) -> tuple[list[int], str]:
    """Return equally many rows of each class, at most half of the smallest class's; or [] and why there are none."""
    if images < data.classes:
        return [], f"a probe set of {images} images was asked for; {data.classes} classes need one each"
    if not len(data.labels):
        return [], "the source images have no labels"
    counts = data.labels.bincount(minlength=data.classes)
    each = min(images // data.classes, int(counts.min()) // 2)
    if not each:
        return [], f"class {int(counts.argmin())} has {int(counts.min())} images, at least 2 are needed"
    return list(order[: each * data.classes]), ""


def _others(data: SourceData, order: Sequence[int], images: int, probe: Collection[bytes]) -> SourceImages:
    """Read the first images in the order whose digests are not in `probe`, the digests of the probe set.

    Raises:
        UnfitError: If there is none.
    """
    rows: list[int] = []
    chosen: list[Tensor] = []
    for start in range(0, data.count, READ_AT_ONCE):
        part = order[start : start + READ_AT_ONCE]
        read = data.take(part)
        new = [place for place in range(len(part)) if digest_of(read[place]) not in probe][: images - len(rows)]
        rows += [part[place] for place in new]
        chosen.append(read[new])
        if len(rows) == images:
            break
    if not rows:
        raise UnfitError("all source images are in the probe set; more images are needed")
    labels = data.labels[rows] if len(data.labels) else data.labels
    return SourceImages(torch.cat(chosen), labels, data.value_range)
