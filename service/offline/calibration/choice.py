"""Which source images are used: an order in which classes take turns, a probe set, and the images apart from it."""

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
    """The probe set (None: none is to be made, and why) and the images that all else is made from."""

    probe: SourceImages | None
    why_no_probe: str
    images: SourceImages


def choose(data: SourceData, images: int, probe: int, kept_probe: Tensor | None) -> Chosen:
    """Choose the probe set, and the images apart from it.

    Args:
        data: What there is.
        images: How many images all else is made from, at most.
        probe: How many images the probe set should have; fewer where a class has too few.
        kept_probe: The images of a probe set that is kept, (n, C, H, W) uint8, so that none is made.

    Raises:
        UnfitError: If no image is left beside the probe set, or one cannot be read.
    """
    order = turns(data)
    chosen, why = ([], "") if kept_probe is not None else _probe_rows(data, order, probe)
    made = data.read(chosen) if chosen else None
    apart_from = made.images if made is not None else kept_probe
    used = _others(data, order, images, set() if apart_from is None else set(map(digest_of, apart_from)))
    return Chosen(made, why, used)


def turns(data: SourceData) -> list[int]:
    """Return all rows in a seeded order in which the classes take turns, as long as each has images left."""
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
    """Return the sha256 over an image (C, H, W) uint8."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).digest()


def digest(data: SourceImages) -> str:
    """Return the sha256 over images, labels and value range."""
    head = f"{tuple(data.images.shape)} {data.images.dtype} {data.value_range} {data.labels.tolist()}"
    whole = hashlib.sha256(head.encode())
    whole.update(data.images.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _probe_rows(data: SourceData, order: Sequence[int], wanted: int) -> tuple[list[int], str]:
    """Return equally many rows of each class, at most half of what any class has, or why there are none."""
    if wanted < data.classes:
        return [], f"a probe set of {wanted} images was asked for; {data.classes} classes need one each"
    if not len(data.labels):
        return [], "the source images have no labels"
    counts = data.labels.bincount(minlength=data.classes)
    each = min(wanted // data.classes, int(counts.min()) // 2)
    if not each:
        return [], f"class {int(counts.argmin())} has {int(counts.min())} images, at least 2 are needed"
    return list(order[: each * data.classes]), ""


def _others(data: SourceData, order: Sequence[int], images: int, apart_from: Collection[bytes]) -> SourceImages:
    """Read the first images in the order whose pixels are not among those of the probe set.

    Raises:
        UnfitError: If there is none.
    """
    rows: list[int] = []
    taken: list[Tensor] = []
    for start in range(0, data.count, READ_AT_ONCE):
        part = order[start : start + READ_AT_ONCE]
        read = data.take(part)
        fit = [place for place in range(len(part)) if digest_of(read[place]) not in apart_from][: images - len(rows)]
        rows += [part[place] for place in fit]
        taken.append(read[fit])
        if len(rows) == images:
            break
    if not rows:
        raise UnfitError("no source image is left beside those of the probe set; more images are needed")
    labels = data.labels[rows] if len(data.labels) else data.labels
    return SourceImages(torch.cat(taken), labels, data.value_range)
