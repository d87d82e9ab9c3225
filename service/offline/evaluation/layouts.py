"""Reads labelled data: a CIFAR-10-C folder, a folder of image files, an .npz, or the embedded demo images."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.demo.corruptions import CORRUPTIONS, corrupt
from service.demo.drift import STREAM
from service.errors import UnfitError
from service.offline.evaluation.data import CLEAN, SEVERITIES, Domain, Domains, in_memory, with_blends
from service.offline.evaluation.files import read_image_folder
from service.offline.evaluation.pixels import Integers, Mapped, Pixels
from service.types import InputSpec

CIFAR10C = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The corruptions of CIFAR-10-C in their usual order."""
FULL_ROWS = 50_000
"""Rows of a full CIFAR-10-C array: 10,000 images at each of the severities 1 to 5."""
EMBEDDED_SEVERITY = 4
MAX_BYTES = 8 * 2**30
"""Most bytes of one array that is read into memory."""
LAYOUTS = (
    "expected a folder of <corruption>.npy and labels.npy, a folder of <domain>/<class>/*.png or *.jpg, or an .npz of "
    "`images`, `labels` and perhaps `domains`"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The selection of data to read.

    Attributes:
        domains: Names of domains, in order; () for all (for a CIFAR-10-C folder, its 15 corruptions).
        images: Most images per domain; None for all.
        severity: 1 to 5, for data with several severities; None for 5, or 4 for the embedded images.
        ramps: Whether severities 1 to 5 are needed. If the data have only one, the others are blends with `clean`.
        seed: The seed of the choice of images, and of the embedded corruptions.
    """

    domains: tuple[str, ...] = ()
    images: int | None = None
    severity: int | None = None
    ramps: bool = False
    seed: int = 0


def read_data(path: Path | None, takes: InputSpec, classes: tuple[str, ...], wanted: Wanted) -> Domains:
    """Read labelled images for a model; with None, the embedded ones.

    Raises:
        UnfitError: If the layout is unknown, or the data do not fit the model.
    """
    if path is None:
        found = embedded(takes, wanted)
    elif path.suffix == ".npz" and path.is_file():
        found = read_npz(path, takes, wanted)
    elif (path / "labels.npy").is_file():
        found = read_cifar10c(path, takes, wanted)
    elif path.is_dir() and any(entry.is_dir() for entry in path.iterdir()):
        found = read_image_folder(path, takes, classes, _with_clean(wanted), wanted.images, wanted.seed)
    else:
        kind = "a folder without any of these" if path.is_dir() else "a file" if path.exists() else "not there"
        raise UnfitError(f"{path} is {kind}; {LAYOUTS}")
    _check_labels(found, classes)
    found = with_blends(found) if wanted.ramps else found
    return found.select(wanted.domains) if wanted.domains else _without_extras(found)


def embedded(takes: InputSpec, wanted: Wanted) -> Domains:
    """Return the embedded model's test images: clean, then every corruption at one severity (1 to 5 for ramps)."""
    if takes.shape != (1, 28, 28):
        raise UnfitError(f"without --data the embedded images (1, 28, 28) are used, but the model takes {takes.shape}")
    severity = EMBEDDED_SEVERITY if wanted.severity is None else wanted.severity
    with np.load(STREAM, allow_pickle=False) as stored:
        images, labels = stored["images"][: wanted.images], stored["labels"][: wanted.images].astype(np.int64)
    names = _with_clean(wanted) or (CLEAN, *CORRUPTIONS)
    unknown = [name for name in names if name not in (CLEAN, *CORRUPTIONS)]
    if unknown:
        raise UnfitError(f"the data have no domain {unknown[0]!r}; there are: {', '.join((CLEAN, *CORRUPTIONS))}")
    return Domains({name: _embedded(name, images, labels, severity, wanted) for name in names})


def _embedded(name: str, images: Pixels, labels: Integers, severity: int, wanted: Wanted) -> Domain:
    if name == CLEAN:
        return in_memory(images[:, None], labels)
    seed = wanted.seed + 1 + list(CORRUPTIONS).index(name)
    levels = {
        each: in_memory(corrupt(images, name, each, seed)[:, None], labels).images
        for each in (SEVERITIES if wanted.ramps else (severity,))
    }
    return Domain(levels, labels, severity)


def read_cifar10c(folder: Path, takes: InputSpec, wanted: Wanted) -> Domains:
    """Map a folder of `<corruption>.npy` (N, H, W, C) uint8 and `labels.npy`.

    Arrays of 50,000 rows hold severities 1 to 5, with 10,000 images each. Others hold a single severity.
    """
    labels = _labels(_load(folder / "labels.npy"), folder / "labels.npy")
    channels, height, width = takes.shape
    found, others = {}, []
    for file in sorted(folder.glob("*.npy")):
        array = _load(file)
        if array.dtype == np.uint8 and array.shape[1:] == (height, width, channels):
            found[file.stem] = array
        elif file.stem in (*CIFAR10C, *wanted.domains):
            others.append(f"{file.name} is {array.dtype} {array.shape}")
    if others or not found:
        held = "; ".join(others) or f"{folder} holds no images"
        raise UnfitError(f"{held}; the model takes images uint8 (N, {height}, {width}, {channels})")
    names = [name for name in CIFAR10C if name in found] + [name for name in found if name not in CIFAR10C]
    wrong = [name for name in names if len(found[name]) != len(labels)]
    if set(wrong) & {*CIFAR10C, *wanted.domains}:
        raise UnfitError(f"{wrong[0]}.npy has {len(found[wrong[0]])} images and labels.npy {len(labels)}")
    kept = {name: _cifar_domain(folder / f"{name}.npy", labels, wanted) for name in names if name not in wrong}
    return Domains(kept if wanted.images is None else Domains(kept).first(wanted.images).by_name)


def _cifar_domain(file: Path, labels: Integers, wanted: Wanted) -> Domain:
    if len(labels) != FULL_ROWS:
        _check_severity(wanted, file)
        return Domain({0: Mapped(file, 0, len(labels), channels_last=True)}, labels)
    size = FULL_ROWS // len(SEVERITIES)
    by_severity = labels.reshape(len(SEVERITIES), size)
    if (by_severity != by_severity[0]).any():
        raise UnfitError("labels.npy differs between severities; expected the same 10,000 labels five times")
    levels = {s: Mapped(file, (s - 1) * size, s * size, channels_last=True) for s in SEVERITIES}
    return Domain(levels, by_severity[0], SEVERITIES[-1] if wanted.severity is None else wanted.severity)


def read_npz(file: Path, takes: InputSpec, wanted: Wanted) -> Domains:
    """Read an .npz of `images` uint8 (N, H, W, C), (N, C, H, W) or (N, H, W), `labels` (N,) and perhaps `domains` (N,).

    Domains are in the order of their first images. Without `domains` there is one, named `data`.
    """
    _check_severity(wanted, file)
    arrays = _open_npz(file)
    labels = _labels(arrays["labels"], file)
    images = _channels_first(arrays["images"], takes, file)
    names = arrays.get("domains", np.full(len(labels), "data"))
    if not len(images) == len(labels) == len(names) > 0 or names.ndim != 1:
        raise UnfitError(f"{file} has {len(images)} images, {labels.shape} labels and {names.shape} domains; as many")
    generator = np.random.default_rng(wanted.seed)
    found = {}
    for name in dict.fromkeys(map(str, names)):
        rows = np.flatnonzero(names.astype(str) == name)
        count = len(rows) if wanted.images is None else min(wanted.images, len(rows))
        mine = np.sort(generator.permutation(rows)[:count])
        found[name] = in_memory(images[mine], labels[mine])
    return Domains(found)


def _open_npz(file: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        missing = [name for name in ("images", "labels") if name not in sizes]
        if missing:
            raise UnfitError(f"{file} has no array {missing[0]!r}; it has: {', '.join(sizes) or 'none'}")
        if max(sizes.values()) > MAX_BYTES:
            raise UnfitError(f"{file} unpacks to {max(sizes.values())} bytes; at most {MAX_BYTES} are read")
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in ("images", "labels", "domains") if name in sizes}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UnfitError(f"{file} is no readable .npz: {error}") from None


def _channels_first(images: Any, takes: InputSpec, file: Path) -> Pixels:
    channels, height, width = takes.shape
    if images.dtype == np.uint8 and images.shape[1:] == (channels, height, width):
        return np.asarray(images)
    if images.dtype == np.uint8 and images.shape[1:] == (height, width, channels):
        return np.asarray(images.transpose(0, 3, 1, 2))
    if images.dtype == np.uint8 and (1, *images.shape[1:]) == (channels, height, width):
        return np.asarray(images[:, None])
    raise UnfitError(
        f"images in {file} are {images.dtype} {images.shape}; the model takes uint8 (N, {channels}, {height}, {width}) "
        f"or (N, {height}, {width}, {channels})"
    )


def _load(file: Path) -> Any:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnfitError(f"{file} is no readable .npy: {error}") from None


def _labels(array: Any, file: Path) -> Integers:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UnfitError(f"labels in {file} are {array.dtype} {array.shape}, expected integers (N,)")
    return np.asarray(array, np.int64)


def _check_labels(domains: Domains, classes: tuple[str, ...]) -> None:
    for name, domain in domains.by_name.items():
        if not len(domain):
            raise UnfitError(f"the domain {name!r} has no images")
        least, greatest = int(domain.labels.min()), int(domain.labels.max())
        if least < 0 or greatest >= len(classes):
            raise UnfitError(
                f"labels of {name!r} go from {least} to {greatest}, the model's from 0 to {len(classes) - 1}"
            )


def _check_severity(wanted: Wanted, path: Path) -> None:
    if wanted.severity is not None:
        raise UnfitError(f"{path} holds one severity, so none can be chosen; leave --severity out")


def _with_clean(wanted: Wanted) -> tuple[str, ...]:
    """Return the domains to read, with `clean` added if ramps may need it."""
    if not wanted.domains or not wanted.ramps or CLEAN in wanted.domains:
        return wanted.domains
    return (*wanted.domains, CLEAN)


def _without_extras(domains: Domains) -> Domains:
    """Return only the 15 usual corruptions if the data have them all; other domains must then be named to be used."""
    whole = all(name in domains.by_name for name in CIFAR10C)
    return domains.select(CIFAR10C) if whole else domains
