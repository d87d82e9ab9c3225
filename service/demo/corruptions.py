"""Image corruptions that make the demo's stream drift: ImageNet-C's names and severities, for 28x28 images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Kernel = Callable[[Floats, float, np.random.Generator], Floats]
"""Maps images (N, H, W, C) in [0, 1], a strength and a generator to images that may leave [0, 1]."""

BLUR_TAPS = 9
"""Copies of an image that motion and zoom blur average."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """A kernel and its strengths at severities 1 to 5, in the unit that the kernel's docstring names."""

    kernel: Kernel
    strengths: tuple[float, float, float, float, float]


def corrupt(images: Pixels, name: str, severity: int, seed: int) -> Pixels:
    """Return a corrupted copy of a batch of images; equal arguments give equal bytes.

    Except for shot noise, the random draws depend on the seed and on the number and size of the images, but not on the
    severity. A higher severity is the same damage, but stronger.

    Args:
        images: uint8 (N, H, W), or (N, H, W, C) with C = 1 or 3.
        name: a key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (severe).
        seed: of this call's random draws. Batches of one stream need different seeds, or they share their noise.

    Example:
        >>> grey = np.full((1, 4, 4), 100, dtype=np.uint8)
        >>> int(corrupt(grey, "brightness", severity=2, seed=0)[0, 0, 0])
        151
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"No corruption named {name!r}; there are: {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"No severity {severity!r}; there are: {', '.join(map(str, SEVERITIES))}.")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        raise ValueError(
            f"Expected uint8 images (N, H, W) or (N, H, W, C) with C = 1 or 3, got {images.dtype} {images.shape}."
        )
    if not len(images):
        return images.copy()
    channels_last = images[..., None] if images.ndim == 3 else images
    corruption = CORRUPTIONS[name]
    strength = corruption.strengths[severity - 1]
    x = corruption.kernel(channels_last.astype(np.float32) / np.float32(255), strength, np.random.default_rng(seed))
    return _to_pixels(x).reshape(images.shape)


def gaussian_noise(x: Floats, deviation: float, generator: np.random.Generator) -> Floats:
    """Add normal noise of the given standard deviation."""
    return x + np.float32(deviation) * generator.standard_normal(x.shape, dtype=np.float32)


def shot_noise(x: Floats, darkness: float, generator: np.random.Generator) -> Floats:
    """Add Poisson noise, as if a white pixel received 1 / `darkness` photons on average."""
    return (generator.poisson(x / darkness) * darkness).astype(np.float32)


def impulse_noise(x: Floats, fraction: float, generator: np.random.Generator) -> Floats:
    """Replace a fraction of the values with black or white."""
    draw = generator.random(x.shape, dtype=np.float32)
    return np.where(draw < fraction, (draw < fraction / 2).astype(np.float32), x)


def gaussian_blur(x: Floats, sigma: float, generator: np.random.Generator) -> Floats:  # noqa: ARG001 - nothing to draw
    """Convolve with a Gaussian of `sigma` pixels."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in (1, 2):
        length = x.shape[axis]
        width = [(radius, radius) if axis == other else (0, 0) for other in range(4)]
        padded = np.pad(x, width, mode="edge")
        shifted = (padded.take(range(start, start + length), axis) for start in range(2 * radius + 1))
        x = _weighted_mean(shifted, weights)
    return x


def motion_blur(x: Floats, length: float, generator: np.random.Generator) -> Floats:
    """Smear each image over `length` pixels in its own direction, up to 45 degrees from the horizontal."""
    rows, columns = _grid(x)
    angle = generator.uniform(-np.pi / 4, np.pi / 4, (len(x), 1, 1))
    offsets = np.linspace(-length / 2, length / 2, BLUR_TAPS)
    smeared = (_sample(x, rows + np.sin(angle) * offset, columns + np.cos(angle) * offset) for offset in offsets)
    return _weighted_mean(smeared, np.ones(BLUR_TAPS))


def zoom_blur(x: Floats, zoom: float, generator: np.random.Generator) -> Floats:  # noqa: ARG001 - nothing to draw
    """Average each image over enlargements from 1 to `zoom` times."""
    rows, columns = _grid(x)
    middle_row, middle_column = rows.mean(), columns.mean()
    zooms = np.linspace(1, zoom, BLUR_TAPS)
    enlarged = (
        _sample(x, middle_row + (rows - middle_row) / z, middle_column + (columns - middle_column) / z) for z in zooms
    )
    return _weighted_mean(enlarged, np.ones(BLUR_TAPS))


def contrast(x: Floats, lost: float, generator: np.random.Generator) -> Floats:  # noqa: ARG001 - nothing to draw
    """Move every pixel towards its image's mean; `lost` is the fraction of the contrast removed."""
    mean: Floats = x.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (x - mean) * np.float32(1 - lost)


def brightness(x: Floats, added: float, generator: np.random.Generator) -> Floats:  # noqa: ARG001 - nothing to draw
    """Add a constant."""
    return x + np.float32(added)


def fog(x: Floats, density: float, generator: np.random.Generator) -> Floats:
    """Add a bright cloud to each image, then rescale the result to the image's original maximum."""
    clouds = np.float32(density) * _clouds(x, (2, 4, 8, 16), generator)[..., None]
    brightest: Floats = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + clouds) * brightest / (brightest + np.float32(density))


def pixelate(x: Floats, block: float, generator: np.random.Generator) -> Floats:  # noqa: ARG001 - nothing to draw
    """Replace each block of `block` x `block` pixels with one colour."""
    height, width = x.shape[1:3]
    small = (max(1, round(width / block)), max(1, round(height / block)))

    def enlarge(image: Image.Image) -> Image.Image:
        return image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.NEAREST)

    return _per_image(x, enlarge)


def rotation(x: Floats, degrees: float, generator: np.random.Generator) -> Floats:
    """Rotate each image by `degrees`, to the left or to the right."""
    rows, columns = _grid(x)
    side = generator.choice([-1.0, 1.0], (len(x), 1, 1)).astype(np.float32)
    sine = side * np.float32(np.sin(np.radians(degrees)))
    cosine = np.float32(np.cos(np.radians(degrees)))
    down, right = rows - rows.mean(), columns - columns.mean()
    return _sample(x, rows.mean() + cosine * down - sine * right, columns.mean() + sine * down + cosine * right)


def elastic(x: Floats, pixels: float, generator: np.random.Generator) -> Floats:
    """Shift every pixel by up to `pixels` in each direction, smoothly over the image."""
    rows, columns = _grid(x)
    down, right = (np.float32(pixels) * (2 * _clouds(x, (6,), generator) - 1) for _ in range(2))
    return _sample(x, rows + down, columns + right)


def jpeg(x: Floats, loss: float, generator: np.random.Generator) -> Floats:  # noqa: ARG001 - nothing to draw
    """Compress each image as JPEG of quality 100 - `loss`."""

    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(100 - loss))
        return Image.open(file)

    return _per_image(x, compress)


SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (0.06, 0.10, 0.15, 0.22, 0.30)),
    "shot_noise": Corruption(shot_noise, (0.02, 0.05, 0.10, 0.20, 0.35)),
    "impulse_noise": Corruption(impulse_noise, (0.02, 0.05, 0.10, 0.17, 0.27)),
    "gaussian_blur": Corruption(gaussian_blur, (0.5, 0.8, 1.1, 1.5, 2.0)),
    "motion_blur": Corruption(motion_blur, (2.0, 3.5, 5.0, 7.0, 9.0)),
    "zoom_blur": Corruption(zoom_blur, (1.15, 1.3, 1.5, 1.7, 2.0)),
    "contrast": Corruption(contrast, (0.40, 0.55, 0.70, 0.80, 0.90)),
    "brightness": Corruption(brightness, (0.10, 0.20, 0.30, 0.40, 0.50)),
    "fog": Corruption(fog, (0.3, 0.5, 0.8, 1.2, 1.8)),
    "pixelate": Corruption(pixelate, (1.4, 1.8, 2.3, 3.0, 4.0)),
    "rotation": Corruption(rotation, (10.0, 17.0, 25.0, 35.0, 50.0)),
    "elastic": Corruption(elastic, (0.8, 1.2, 1.7, 2.3, 3.0)),
    "jpeg": Corruption(jpeg, (70.0, 80.0, 88.0, 93.0, 97.0)),
}


def _to_pixels(x: Floats) -> Pixels:
    levels: Floats = np.rint(x.clip(0, 1) * 255)
    return levels.astype(np.uint8)


def _grid(x: Floats) -> tuple[Floats, Floats]:
    """Return the row (1, H, 1) and the column (1, 1, W) of every pixel."""
    height, width = x.shape[1:3]
    return np.arange(height, dtype=np.float32)[None, :, None], np.arange(width, dtype=np.float32)[None, None, :]


def _sample(x: Floats, rows: npt.NDArray[np.floating], columns: npt.NDArray[np.floating]) -> Floats:
    """Sample images (N, H, W, C) bilinearly at `rows` and `columns`, which broadcast to (N, H', W').

    A position outside an image reads the nearest edge pixel.
    """
    count, height, width, channels = x.shape
    row: Floats = rows.astype(np.float32).clip(0, height - 1)
    column: Floats = columns.astype(np.float32).clip(0, width - 1)
    top, left = row.astype(np.intp), column.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (row - top)[..., None], (column - left)[..., None]
    first = np.arange(count)[:, None, None] * (height * width)
    pixels = x.reshape(-1, channels)

    def read_line(row_index: npt.NDArray[np.intp]) -> Floats:
        start = first + row_index * width
        line: Floats = pixels.take(start + left, axis=0) * (1 - across) + pixels.take(start + right, axis=0) * across
        return line

    return read_line(top) * (1 - down) + read_line(bottom) * down


def _clouds(x: Floats, cells: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """Draw smooth noise (N, H, W) that spans [0, 1] in each image: octaves of `cells` per side, each half as strong."""
    count, height, width, _ = x.shape
    total = np.zeros((count, height, width), dtype=np.float32)
    for octave, side in enumerate(cells):
        corners = generator.random((count, side + 1, side + 1, 1), dtype=np.float32)
        rows, columns = np.linspace(0, side, height)[None, :, None], np.linspace(0, side, width)[None, None, :]
        total += _sample(corners, rows, columns)[..., 0] / 2**octave
    low: Floats = total.min(axis=(1, 2), keepdims=True)
    high: Floats = total.max(axis=(1, 2), keepdims=True)
    scaled: Floats = (total - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return scaled


def _weighted_mean(images: Iterable[Floats], weights: npt.NDArray[np.floating]) -> Floats:
    total = sum(np.float32(weight) * image for weight, image in zip(weights / weights.sum(), images, strict=True))
    return np.asarray(total, dtype=np.float32)


def _per_image(x: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """Apply a Pillow function to each image (H, W, C), C = 1 or 3."""
    pixels = _to_pixels(x)
    planes = pixels[..., 0] if x.shape[-1] == 1 else pixels
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in planes])
    return changed.reshape(x.shape).astype(np.float32) / np.float32(255)
