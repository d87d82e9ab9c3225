"""Decodes JPEG and PNG files into one batch of pixels in the model's value range."""

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
# A progressive JPEG may hold any number of scans of about 30 bytes, and the decoder passes over all pixels for each.
# 1 MB of scans at 16 megapixels would take minutes to decode. Encoders write about ten; the largest images may have 20.
_MAX_SCANS, _FEW_SCANS = 100, 20
# Pillow inflates a PNG's text chunks when it opens the file. Its default allows 64 MB of text for each image.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * PngImagePlugin.MAX_TEXT_CHUNK
_SCAN = b"\xff\xda"
# The errors that Pillow's readers are known to raise for corrupt files.
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
    """Decode JPEG and PNG files into the model's input.

    EXIF orientation is applied. Transparency is dropped; the colours below it stay, as in the usual training loaders.
    16-bit values keep their high byte. Only the first frame of an animation is used.

    Args:
        files: One encoded image each.
        spec: The model's input; `spec.resize` says how images are brought to its height and width.
        limits: `max_pixels` bounds the total number of pixels. It is checked from the headers, before any decoding.

    Returns:
        (N, C, H, W) float32, contiguous, within `spec.value_range`.

    Raises:
        TooLargeError: There are too many images, pixels or JPEG scans.
        UnfitError: There is no image; a file is not a JPEG or PNG, or is corrupt; the model does not take 1 or 3
            channels; or an image's size differs from the model's and `spec.resize` is `exact`.
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
        A contiguous float32 copy of the same shape.

    >>> scale_bytes(torch.tensor([0, 51, 255], dtype=torch.uint8), InputSpec("image", (3, 4, 4)))
    tensor([0.0000, 0.2000, 1.0000])
    """
    low, high = spec.value_range
    values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    # Multiplying first gives exactly x / 255 for [0, 1], and exactly x for [0, 255].
    return values.mul_(high - low).div_(255).add_(low)


def count_pixels(files: Sequence[bytes], spec: InputSpec, limits: Limits) -> int:
    """Return the total number of pixels of the images, read from their headers without decoding.

    Raises:
        TooLargeError: There are too many pixels, or an image has too many JPEG scans.
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
    """Turn Pillow's errors for decompression bombs and corrupt files into TooLargeError and UnfitError."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"Image {index} has too many pixels: {error}") from error
    except _CORRUPT as error:
        name = f"Image {index} ({len(file)} bytes, beginning with {file[:8]!r})"
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise UnfitError(f"{name} is not a readable JPEG or PNG file{reason}") from error


def _open(file: bytes) -> Image.Image:
    return Image.open(BytesIO(file), formats=_FORMATS)


def _check_pixels(index: int, image: Image.Image, total: int, spec: InputSpec, limits: Limits) -> None:
    size = f"Image {index} is {image.width} x {image.height}"
    if total > limits.max_pixels:
        raise TooLargeError(f"{size}, which makes {total} pixels so far; at most {limits.max_pixels} are allowed")
    # Pillow resizes one axis at a time: an image of 1 x 16,000,000 pixels would become 224 x 16,000,000 in between.
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
    """Convert an image of any mode to 8 bits per channel in `mode`, L or RGB."""
    # With this entry, Pillow would try to convert the transparent colour, and warn.
    image.info.pop("transparency", None)
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255. For 16-bit colours it has already kept the high byte.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _fit(index: int, image: Image.Image, spec: InputSpec) -> Image.Image:
    """Bring an image to the model's height and width, as `spec.resize` says."""
    _, height, width = spec.shape
    if image.size == (width, height):
        return image
    if spec.resize == "exact":
        problem = f"Image {index} is {image.width} x {image.height}"
        raise UnfitError(f"{problem}; the model takes exactly {width} x {height} (width x height)")
    if spec.resize == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return image.resize((width, height), Image.Resampling.BILINEAR)
