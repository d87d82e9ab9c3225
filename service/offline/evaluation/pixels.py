"""Where images come from when they are read: memory, a mapped file, or a blend of two."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Images (N, C, H, W) uint8, 0 to 255 over the model's value range."""
Integers: TypeAlias = npt.NDArray[np.int64]


class Images(Protocol):
    """Images (N, C, H, W) that are read by rows."""

    def __len__(self) -> int:
        """How many images."""

    def take(self, rows: Integers) -> Pixels:
        """Return the images of rows (n,), in memory."""

    def first(self, count: int) -> "Images":
        """Return the first images alone."""


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
        """Return the first images alone."""
        return InMemory(self.pixels[:count])


@dataclass(frozen=True)
class Mapped:
    """Rows `start` to `stop` of a .npy file, mapped when they are read.

    Another process is told the file's name, so that no pixels travel and all processes share the pages.
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
        taken = np.asarray(stored[self.start + rows])
        return np.ascontiguousarray(taken.transpose(0, 3, 1, 2)) if self.channels_last else taken

    def first(self, count: int) -> "Mapped":
        """Return the first images alone."""
        return replace(self, stop=min(self.stop, self.start + count))


@dataclass(frozen=True)
class Blended:
    """A milder form of corrupted images: `share` of them, the rest from the same images when clean."""

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
        """Return the first images alone."""
        return Blended(self.clean.first(count), self.corrupted.first(count), self.share)
