"""The demo's drifting stream: the shipped test images, one domain after the other; the first and last are clean."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.demo.corruptions import CORRUPTIONS, corrupt

STREAM = Path(__file__).parent / "stream.npz"
CLEAN = "clean"
CLEAN_AGAIN = "clean again"
DOMAINS = (CLEAN, *CORRUPTIONS, CLEAN_AGAIN)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images (N, 1, 28, 28) uint8 and their labels (N,) int64. The labels are never sent to the server."""

    domain: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def drifting(images_per_domain: int, batch: int, severity: int, seed: int = 0) -> Iterator[Batch]:
    """Yield batches of shuffled images, domain by domain. Each domain's images follow those of the domain before it.

    Args:
        images_per_domain: How many images of each domain, at most 2,500.
        batch: Images per batch; a domain's last batch may hold fewer.
        severity: 1 (mild) to 5 (severe).
        seed: The seed of the order and of the corruptions.
    """
    with np.load(STREAM) as stored:
        images, labels = stored["images"], stored["labels"].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(images))
    for number, domain in enumerate(DOMAINS):
        mine = np.roll(order, -number * images_per_domain)[:images_per_domain]
        seen = corrupt(images[mine], domain, severity, seed + number) if domain in CORRUPTIONS else images[mine]
        for start in range(0, len(mine), batch):
            part = slice(start, start + batch)
            yield Batch(domain, seen[part, None], labels[mine][part])
