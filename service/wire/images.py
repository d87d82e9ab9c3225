"""Encoded images: from JPEG and PNG files to one batch of pixels in the model's value range."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from service.errors import TooLargeError, UnfitError
from service.types import InputSpec, Limits

_FORMATS = ("JPEG", "PNG")
_MODES = {1: "L", 3: "RGB"}
# A progressive JPEG may name any number of scans, each some 30 bytes, and every one is a pass over all pixels: 1 MB
# of them at 16 megapixels would decode for minutes. Encoders write about ten; the largest images may have 20.
_MAX_SCANS, _FEW_SCANS = 100, 20
# Texts are inflated when a PNG is opened. By default Pillow would hold 64 MB of them for each image of a batch.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * PngImagePlugin.MAX_TEXT_CHUNK
_SCAN = b"\xff\xda"
# What Pillow's readers are known to raise on bytes that are not what they say.
_CORRUPT = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)


def decode_images(files: Sequence[bytes], spec: InputSpec, limits: Limits) -> torch.Tensor:
    """Decode JPEG and PNG files and prepare them as the model's input.

    EXIF orientation is applied, transparency is dropped (the colours below it stay, as in the usual training loaders),
    16-bit values keep their high byte, the first frame of an animation is taken.

    Args:
        files: One encoded image each.
        spec: The model's input; `spec.resize` says how an image comes to its height and width.
        limits: `max_pixels` bounds the pixels of all images together, by their headers, before any is decoded.

    Returns:
        (N, C, H, W) float32, contiguous, within `spec.value_range`.

    Raises:
        TooLargeError: Too many images, pixels or JPEG scans.
        UnfitError: A file is not a JPEG or PNG, or is corrupt; the model's channels are not 1 or 3; under `exact`, an
            image has another size; there is no image at all.
    """
    channels, height, width = spec.shape
    if channels not in _MODES:
        raise UnfitError(f"Encoded images have 1 or 3 channels; the model's input {spec.name!r} takes {channels}")
    if not 1 <= len(files) <= limits.max_batch:
        error = TooLargeError if files else UnfitError
        raise error(f"{len(files)} images were given; 1 to {limits.max_batch} are expected")
    count_pixels(files, spec, limits)
    batch = np.empty((len(files), height, width, channels), np.uint8)
    for index, file in enumerate(files):
        with _refusals(index, file):
            image = _open(file)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        fitted = _fit(index, _convert(image, _MODES[channels]), spec)
        batch[index] = np.asarray(fitted).reshape(height, width, channels)
    return scale_bytes(torch.from_numpy(batch).permute(0, 3, 1, 2), spec)


def scale_bytes(pixels: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """Map bytes linearly onto the model's value range: 0 to its lowest value, 255 to its highest.

    Args:
        pixels: uint8 of any shape.
        spec: The model's input.

    Returns:
        float32 of the same shape, contiguous, in memory of its own.

    >>> scale_bytes(torch.tensor([0, 51, 255], dtype=torch.uint8), InputSpec("image", (3, 4, 4)))
    tensor([0.0000, 0.2000, 1.0000])
    """
    low, high = spec.value_range
    values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    # Multiplied first: this is x / 255 to the last bit for [0, 1], and x itself for [0, 255].
    return values.mul_(high - low).div_(255).add_(low)


def count_pixels(files: Sequence[bytes], spec: InputSpec, limits: Limits) -> int:
    """Return the pixels of all images together, by their headers; no pixel is decoded, and no header is kept.

    Raises:
        TooLargeError: They are beyond the limits, or an image has too many JPEG scans.
        UnfitError: A file is not a JPEG or PNG.
    """
    total = 0
    for index, file in enumerate(files):
        with _refusals(index, file), _open(file) as image:
            total += image.width * image.height
            _check_pixels(index, image, total, spec, limits)
            _check_scans(index, file, image, limits)
    return total


@contextmanager
def _refusals(index: int, file: bytes) -> Iterator[None]:
    """Turn what Pillow raises on bombs and corrupt files into this server's refusals."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"Image {index} has too many pixels: {error}") from error
    except _CORRUPT as error:
        given = f"Image {index} ({len(file)} bytes, beginning with {file[:8]!r})"
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise UnfitError(f"{given} is not a readable JPEG or PNG file{reason}") from error


def _open(file: bytes) -> Image.Image:
    return Image.open(BytesIO(file), formats=_FORMATS)


def _check_pixels(index: int, image: Image.Image, total: int, spec: InputSpec, limits: Limits) -> None:
    size = f"Image {index} is {image.width} x {image.height}"
    if total > limits.max_pixels:
        raise TooLargeError(f"{size}, which makes {total} pixels so far; at most {limits.max_pixels} are allowed")
    # Resizing goes one side at a time: a sliver of 1 x 16,000,000 pixels would be 224 x 16,000,000 in between.
    _, height, width = spec.shape
    between = max(image.width, width) * max(image.height, height)
    if between > max(limits.max_pixels, width * height):
        raise TooLargeError(f"{size}: {between} pixels while resizing; at most {limits.max_pixels} are allowed")


def _check_scans(index: int, file: bytes, image: Image.Image, limits: Limits) -> None:
    scans = file.count(_SCAN) if image.format != "PNG" else 0
    pixels = image.width * image.height
    most = min(_MAX_SCANS, max(_FEW_SCANS, _FEW_SCANS * limits.max_pixels // max(1, pixels)))
    if scans > most:
        raise TooLargeError(f"Image {index} is a JPEG of {scans} scans; at most {most} are allowed at its size")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Bring an image of any mode to 8 bits in `mode`, L or RGB."""
    # Without this, Pillow would try to carry the transparent colour over, and warn.
    image.info.pop("transparency", None)
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255; of 16-bit colours it has already kept the high byte.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _fit(index: int, image: Image.Image, spec: InputSpec) -> Image.Image:
    """Bring an image to the model's height and width as `spec.resize` says."""
    _, height, width = spec.shape
    if image.size == (width, height):
        return image
    if spec.resize == "exact":
        given = f"Image {index} is {image.width} x {image.height}"
        raise UnfitError(f"{given}; the model takes exactly {width} x {height} (width x height)")
    if spec.resize == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return image.resize((width, height), Image.Resampling.BILINEAR)
