"""Sources of images: memory, a mapped file, or a blend of two other sources."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Images (N, C, H, W) uint8; 0 to 255 span the model's value range."""
Integers: TypeAlias = npt.NDArray[np.int64]


class Images(Protocol):
    """Images (N, C, H, W) that are read by rows."""

    def __len__(self) -> int:
        """Return the number of images."""

    def take(self, rows: Integers) -> Pixels:
        """Read the images of rows (n,) into memory."""

    def first(self, count: int) -> "Images":
        """Return only the first `count` images."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images held as an array (N, C, H, W)."""

    pixels: Pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Integers) -> Pixels:
        """Return the images of rows (n,)."""
        return self.pixels[rows]

    def first(self, count: int) -> "InMemory":
        """Return only the first `count` images."""
        return InMemory(self.pixels[:count])


@dataclass(frozen=True)
class Mapped:
    """Rows `start` to `stop` of a .npy file, which is mapped when they are read.

    Other processes receive only the file's name and share its memory pages, so no pixels are copied between them.
    """

    path: Path
    start: int
    stop: int
    channels_last: bool

    def __len__(self) -> int:
        return self.stop - self.start

    def take(self, rows: Integers) -> Pixels:
        """Return the images of rows (n,), counted from `start`."""
        stored: Pixels = np.load(self.path, mmap_mode="r", allow_pickle=False)
        pixels = np.asarray(stored[self.start + rows])
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if self.channels_last else pixels

    def first(self, count: int) -> "Mapped":
        """Return only the first `count` images."""
        return replace(self, stop=min(self.stop, self.start + count))


@dataclass(frozen=True)
class Blended:
    """A milder corruption: a mean of the corrupted images with weight `share`, and the same clean images."""

    clean: Images
    corrupted: Images
    share: float

    def __len__(self) -> int:
        return len(self.corrupted)

    def take(self, rows: Integers) -> Pixels:
        """Return the blended images of rows (n,)."""
        clean, corrupted = (images.take(rows).astype(np.float32) for images in (self.clean, self.corrupted))
        return np.rint(clean + np.float32(self.share) * (corrupted - clean)).astype(np.uint8)

    def first(self, count: int) -> "Blended":
        """Return only the first `count` images."""
        return Blended(self.clean.first(count), self.corrupted.first(count), self.share)
