"""Reads a folder of image files, `<domain>/<class>/*.png|jpg`, with the server's image decoder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from adapters.source import as_stored
from service.errors import TooLargeError, UnfitError
from service.offline.evaluation.data import CLEAN, Domain, Domains, in_memory
from service.types import InputSpec, Limits
from service.wire.images import decode_images

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_FILE_BYTES = 64 * 2**20
MAX_BYTES = 8 * 2**30
"""Most bytes of decoded images, which are held in memory."""
AT_ONCE = 16
LIMITS = Limits(max_batch=AT_ONCE, max_pixels=AT_ONCE * 50_000_000)


def read_image_folder(
    folder: Path, takes: InputSpec, classes: tuple[str, ...], names: Sequence[str], images: int | None, seed: int
) -> Domains:
    """Read the named domains (all if none are named), sorted by name, with `clean` first.

    Class folders have the names or the numbers of the model's classes.

    Args:
        folder: The folder, with `<domain>/<class>/*.png|jpg`.
        takes: The model's input: its shape, and how images are resized.
        classes: The model's classes.
        names: Domains to read. `clean` need not exist.
        images: Most images per domain, drawn at random; None for all.
        seed: The seed of that draw.

    Raises:
        UnfitError: If a domain or class is unknown, or a file is not an image.
        TooLargeError: If the decoded images exceed MAX_BYTES. `images` limits them.
    """
    domains = sorted(
        (entry.name for entry in folder.iterdir() if entry.is_dir()), key=lambda name: (name != CLEAN, name)
    )
    unknown = [name for name in names if name not in domains and name != CLEAN]
    if unknown:
        raise UnfitError(f"{folder} has no domain {unknown[0]!r}; there are: {', '.join(domains)}")
    chosen = [name for name in domains if not names or name in names]
    listed = {name: _sample(_listed(folder / name, classes), images, seed) for name in chosen}
    _check_size(sum(map(len, listed.values())), takes)
    return Domains({name: _decoded(files, takes) for name, files in listed.items()})


def _listed(domain: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """List a domain's files with their labels, sorted by class and name."""
    folders = sorted(entry for entry in domain.iterdir() if entry.is_dir())
    found = [
        (file, _label(folder, classes))
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not found:
        held = f"{len(folders)} folders without images" if folders else "no folders"
        raise UnfitError(f"{domain} holds {held}; expected <class>/*.png or *.jpg in it")
    return found


def _label(folder: Path, classes: tuple[str, ...]) -> int:
    if folder.name in classes:
        return classes.index(folder.name)
    if folder.name.isdecimal() and int(folder.name) < len(classes):
        return int(folder.name)
    raise UnfitError(
        f"{folder} is named as no class of the model; expected one of {', '.join(classes[:10])}"
        f"{', ...' if len(classes) > 10 else ''}, or a number from 0 to {len(classes) - 1}"
    )


def _sample(files: list[tuple[Path, int]], images: int | None, seed: int) -> list[tuple[Path, int]]:
    if images is None or images >= len(files):
        return files
    return [files[row] for row in sorted(np.random.default_rng(seed).permutation(len(files))[:images])]


def _check_size(images: int, takes: InputSpec) -> None:
    channels, height, width = takes.shape
    if images * channels * height * width > MAX_BYTES:
        most = MAX_BYTES // (channels * height * width)
        raise TooLargeError(
            f"{images} images of {takes.shape} were found; at most {most} are held, limit with --images"
        )


def _decoded(files: list[tuple[Path, int]], takes: InputSpec) -> Domain:
    parts = [
        as_stored(decode_images([_read(file) for file, _ in part], takes, LIMITS), takes.value_range).numpy()
        for part in _chunks(files)
    ]
    return in_memory(np.concatenate(parts), np.array([label for _, label in files], np.int64))


def _chunks(files: list[tuple[Path, int]]) -> Iterator[list[tuple[Path, int]]]:
    for start in range(0, len(files), AT_ONCE):
        yield files[start : start + AT_ONCE]


def _read(file: Path) -> bytes:
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TooLargeError(f"{file} has {size} bytes; at most {MAX_FILE_BYTES} are read")
    return file.read_bytes()
