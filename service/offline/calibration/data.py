"""Source data on disk: a folder of images by class, or arrays. Only the chosen images are read."""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adapters import SourceImages
from adapters.source import as_stored
from service.errors import ServiceError, UnfitError
from service.models.bundle import Bundle
from service.types import InputSpec, Limits
from service.wire.images import decode_images

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAX_FILES = 2_000_000
MAX_FILE_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 8 * 2**30
"""Largest array in an .npz, because these are read whole. Those in .npy files are mapped and may be larger."""
UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""The errors that NumPy and zipfile are known to raise for corrupt files."""
EXPECTED = (
    "expected a folder <class name>/*.png, a folder of images, a folder with images.npy (or source_images.npy) and "
    "maybe labels.npy (or source_labels.npy), or an .npz with images and maybe labels"
)


@dataclass(frozen=True)
class SourceData:
    """Source images that are not read yet.

    Attributes:
        labels: (N,) int64; (0,) if they are unknown.
        count: The number of images, N.
        classes: The number of the model's classes.
        value_range: Least and greatest value of an input.
        take: Reads images (n, C, H, W) uint8 by their numbers.
    """

    labels: Tensor
    count: int
    classes: int
    value_range: tuple[float, float]
    take: Callable[[Sequence[int]], Tensor]

    def read(self, rows: Sequence[int]) -> SourceImages:
        """Read images by their numbers."""
        labels = self.labels[list(rows)] if len(self.labels) else self.labels
        return SourceImages(self.take(rows), labels, self.value_range)


def find_data(path: Path, bundle: Bundle) -> SourceData:
    """Find source images for a bundle's model.

    Raises:
        UnfitError: If there are none, or they do not match the model's input shape or classes.
    """
    if path.is_dir():
        for prefix in ("source_", ""):
            if (path / f"{prefix}images.npy").is_file():
                return _from_arrays(*_open_npy(path, prefix), bundle, str(path))
        return _from_folder(path, bundle)
    if path.suffix == ".npz" and path.is_file():
        return _from_arrays(*_open_npz(path), bundle, str(path))
    kind = "a file of another kind" if path.exists() else "missing"
    raise UnfitError(f"{path} is {kind}; {EXPECTED}")


def data_of(images: npt.NDArray[Any], labels: npt.NDArray[Any] | None, bundle: Bundle) -> SourceData:
    """Return arrays as source data: images (N, C, H, W), (N, H, W, C) or (N, H, W) uint8, and labels (N,).

    Raises:
        UnfitError: If they do not match the model's input shape or classes.
    """
    return _from_arrays(images, labels, bundle, "the source data")


def _from_arrays(images: npt.NDArray[Any], labels: npt.NDArray[Any] | None, bundle: Bundle, where: str) -> SourceData:
    channels, height, width = bundle.input.shape
    layouts: dict[tuple[int, ...], str] = {(channels, height, width): "NCHW", (height, width, channels): "NHWC"}
    if channels == 1:
        layouts[(height, width)] = "NHW"
    layout = layouts.get(images.shape[1:])
    if images.dtype != np.uint8 or layout is None or not len(images):
        expected = " or ".join(f"({', '.join(map(str, ('N', *shape)))})" for shape in layouts)
        raise UnfitError(f"{where} has images {images.dtype} {images.shape}, expected uint8 {expected}")

    def take(rows: Sequence[int]) -> Tensor:
        chosen = torch.from_numpy(np.array(images[list(rows)]))
        if layout == "NHWC":
            chosen = chosen.permute(0, 3, 1, 2)
        return chosen.reshape(len(rows), channels, height, width).contiguous()

    checked = _check_labels(labels, len(images), len(bundle.classes), where)
    return SourceData(checked, len(images), len(bundle.classes), bundle.input.value_range, take)


def _check_labels(labels: npt.NDArray[Any] | None, count: int, classes: int, where: str) -> Tensor:
    if labels is None:
        return torch.zeros(0, dtype=torch.int64)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise UnfitError(f"{where} has labels {labels.dtype} {labels.shape}, expected integers ({count},)")
    if labels.min() < 0 or labels.max() >= classes:
        raise UnfitError(f"{where} has labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    return torch.from_numpy(labels.astype(np.int64))


def _open_npy(folder: Path, prefix: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    images, labels = folder / f"{prefix}images.npy", folder / f"{prefix}labels.npy"
    try:
        mapped = np.load(images, mmap_mode="r", allow_pickle=False)
        return mapped, np.load(labels, mmap_mode="r", allow_pickle=False) if labels.is_file() else None
    except UNREADABLE as error:
        raise UnfitError(f"{folder} has arrays that cannot be read: {error}") from None


def _open_npz(file: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for name in {"images", "labels"} & set(names):
                with archive.open(f"{name}.npy") as member:
                    _check_bytes(member, f"{file}: {name}")
        if "images" not in names:
            raise UnfitError(f"{file} has the arrays {sorted(names)[:10]}, expected images, and maybe labels")
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"] if "labels" in names else None
    except UNREADABLE as error:
        raise UnfitError(f"{file} cannot be read as an .npz of arrays: {error}") from None


def _check_bytes(member: IO[bytes], where: str) -> None:
    """Raise UnfitError if an array's header declares more than MAX_ARRAY_BYTES."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    size = prod(shape) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise UnfitError(f"{where} has {size} bytes, expected at most {MAX_ARRAY_BYTES}; .npy files may be larger")


def _from_folder(folder: Path, bundle: Bundle) -> SourceData:
    flat, by_class = _images_in(folder), _class_folders(folder, bundle)
    if flat and any(by_class.values()):
        raise UnfitError(f"{folder} has images beside the folders of its classes ({flat[0].name!r}); expected only one")
    files = flat or [file for found in by_class.values() for file in found]
    if not files:
        raise UnfitError(f"{folder} has no images; {EXPECTED}; classes are {_shortened(bundle.classes)}")
    labels = [label for label, found in by_class.items() for _ in found]

    def take(rows: Sequence[int]) -> Tensor:
        return torch.cat([_decode(files[row], bundle.input) for row in rows])

    known = torch.tensor(labels, dtype=torch.int64)
    return SourceData(known, len(files), len(bundle.classes), bundle.input.value_range, take)


def _class_folders(folder: Path, bundle: Bundle) -> dict[int, list[Path]]:
    """Return the images of each class. A folder is named like its class, with `_` instead of `/`."""
    numbers = {name.replace("/", "_"): number for number, name in enumerate(bundle.classes)}
    found: dict[int, list[Path]] = {}
    for inside in sorted(folder.iterdir()):
        if not inside.is_dir() or inside.name.startswith("."):
            continue
        if inside.name not in numbers:
            raise UnfitError(
                f"{folder} has a folder {inside.name!r}, which is no class of the model; classes are "
                f"{_shortened(tuple(numbers))}"
            )
        found[numbers[inside.name]] = _images_in(inside)
    return dict(sorted(found.items()))


def _images_in(folder: Path) -> list[Path]:
    """Return the images directly in a folder, sorted by name."""
    visible = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    found = [file for file in islice(visible, MAX_FILES + 1) if file.is_file()]
    if len(found) > MAX_FILES:
        raise UnfitError(f"{folder} has more than {MAX_FILES} images; take a part of them")
    return sorted(found)


def _decode(file: Path, spec: InputSpec) -> Tensor:
    """Decode an image for the model's input, as (1, C, H, W) uint8."""
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UnfitError(f"{file} has {file.stat().st_size} bytes, expected at most {MAX_FILE_BYTES}")
    try:
        return as_stored(decode_images([file.read_bytes()], spec, Limits()), spec.value_range)
    except ServiceError as error:
        raise UnfitError(f"{file}: {error}") from None


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
