import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from service.errors import ServiceError, TooLargeError, UnfitError
from service.types import InputSpec, Limits
from service.wire.images import decode_images

bounded = settings(max_examples=100, deadline=None, derandomize=True, database=None)

LIMITS = Limits()
SPEC = InputSpec("image", (3, 4, 6))
EXACT = InputSpec("image", (3, 4, 6), resize="exact")
GREY = InputSpec("image", (1, 4, 6), resize="exact")
NOISE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bytes_of(batch: torch.Tensor) -> np.ndarray[Any, Any]:
    """The first image of a batch as (H, W, C) bytes."""
    return (batch[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    "value_range", [pytest.param((0.0, 1.0), id="unit"), pytest.param((-1.0, 1.0), id="symmetric")]
)
def test_a_png_comes_back_value_by_value(value_range: tuple[float, float]) -> None:
    low, high = value_range
    spec = InputSpec("image", (3, 4, 6), value_range=value_range, resize="exact")

    batch = decode_images([encoded(Image.fromarray(NOISE))] * 2, spec, LIMITS)

    assert batch.shape == (2, 3, 4, 6)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    expected = NOISE.transpose(2, 0, 1) / 255 * (high - low) + low
    np.testing.assert_allclose(batch.numpy(), np.stack([expected] * 2), atol=1e-6)


def test_images_of_a_batch_keep_their_order() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    files = [encoded(Image.new("RGB", (6 + i, 4), colour)) for i, colour in enumerate(colours)]

    batch = decode_images(files, SPEC, LIMITS)

    assert torch.equal(batch.mean(dim=(2, 3)), torch.eye(3))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_any_mode_decode(mode: str) -> None:
    image = Image.new("L", (6, 4), 100).convert("RGB").convert(mode)

    batch = decode_images([encoded(image, "JPEG", quality=95)], EXACT, LIMITS)

    assert np.abs(bytes_of(batch).astype(int) - 100).max() <= 2


def test_a_progressive_jpeg_decodes() -> None:
    image = Image.new("RGB", (64, 64), (100, 100, 100))

    batch = decode_images([encoded(image, "JPEG", progressive=True)], SPEC, LIMITS)

    assert np.abs(bytes_of(batch).astype(int) - 100).max() <= 2


def palette_of_two() -> Image.Image:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return image


def sixteen_bit(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 6), value, np.uint16))


@pytest.mark.parametrize(
    ("file", "colour"),
    [
        pytest.param(encoded(Image.new("1", (6, 4), 1)), (255, 255, 255), id="one_bit"),
        pytest.param(encoded(Image.new("L", (6, 4), 77)), (77, 77, 77), id="grey"),
        pytest.param(encoded(Image.new("LA", (6, 4), (77, 0))), (77, 77, 77), id="grey_and_alpha"),
        pytest.param(encoded(sixteen_bit(0x4D80)), (77, 77, 77), id="grey_of_16_bits"),
        pytest.param(encoded(sixteen_bit(0xFFFF)), (255, 255, 255), id="white_of_16_bits"),
        pytest.param(encoded(palette_of_two()), (200, 100, 50), id="palette"),
        pytest.param(encoded(palette_of_two(), transparency=1), (200, 100, 50), id="palette_with_clear_colour"),
        pytest.param(encoded(palette_of_two(), transparency=b"\x80\x10"), (200, 100, 50), id="palette_with_alphas"),
        pytest.param(encoded(Image.new("RGBA", (6, 4), (200, 100, 50, 0))), (200, 100, 50), id="alpha_is_dropped"),
        pytest.param(
            encoded(Image.new("RGB", (6, 4), (200, 100, 50)), transparency=(200, 100, 50)),
            (200, 100, 50),
            id="clear_colour_is_dropped",
        ),
    ],
)
def test_pngs_of_every_mode_become_plain_colours(file: bytes, colour: tuple[int, int, int]) -> None:
    batch = decode_images([file], EXACT, LIMITS)

    np.testing.assert_array_equal(bytes_of(batch), np.broadcast_to(np.array(colour, np.uint8), (4, 6, 3)))


@pytest.mark.parametrize(
    ("file", "grey"),
    [
        pytest.param(encoded(Image.new("RGB", (6, 4), (255, 0, 0))), 76, id="red_by_its_luma"),
        pytest.param(encoded(Image.new("L", (6, 4), 77)), 77, id="grey"),
        pytest.param(encoded(palette_of_two(), transparency=b"\x80\x10"), 124, id="palette_with_alphas"),
        pytest.param(encoded(sixteen_bit(0x4D80)), 77, id="16_bits"),
    ],
)
def test_a_model_of_one_channel_gets_grey(file: bytes, grey: int) -> None:
    batch = decode_images([file], GREY, LIMITS)

    assert batch.shape == (1, 1, 4, 6)
    assert np.unique(bytes_of(batch)).tolist() == [grey]


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("JPEG", 12)])
def test_the_orientation_in_exif_is_applied(kind: str, tolerance: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn clockwise
    lying = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    spec = InputSpec("image", (3, 16, 24), resize="exact")

    batch = decode_images([encoded(lying, kind, exif=exif)], spec, LIMITS)

    assert np.abs(bytes_of(batch).astype(int) - upright).max() <= tolerance


# Resizing


def test_stretch_uses_the_whole_image_and_antialiases() -> None:
    # Columns of black and white finer than the target: without antialiasing some of them would win.
    stripes = np.zeros((40, 600, 3), np.uint8)
    stripes[:, ::2] = 255

    batch = decode_images([encoded(Image.fromarray(stripes))], SPEC, LIMITS)

    assert np.abs(bytes_of(batch).astype(int) - 127).max() <= 3


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        pytest.param((80, 40), (8, 4), (1, 0, 7, 4), id="wide"),
        pytest.param((60, 80), (6, 8), (0, 2, 6, 6), id="tall"),
        pytest.param((4, 2), (8, 4), (1, 0, 7, 4), id="enlarged"),
    ],
)
def test_crop_is_the_shorter_side_to_the_target_and_then_the_centre(
    size: tuple[int, int], resized: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    width, height = size
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))

    cropped = decode_images([encoded(image)], InputSpec("image", (3, 4, 6), resize="crop"), LIMITS)

    expected = image.resize(resized, Image.Resampling.BILINEAR).crop(box)
    np.testing.assert_allclose(bytes_of(cropped).astype(int), np.asarray(expected, int), atol=1)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_small_images_are_enlarged(resize: str) -> None:
    file = encoded(Image.new("RGB", (1, 1), (10, 20, 30)))

    batch = decode_images([file], InputSpec("image", (3, 4, 6), resize=resize), LIMITS)

    np.testing.assert_array_equal(bytes_of(batch), np.broadcast_to(np.array([10, 20, 30], np.uint8), (4, 6, 3)))


def test_exact_refuses_another_size() -> None:
    with pytest.raises(UnfitError, match="Image 1 is 4 x 6; the model takes exactly 6 x 4"):
        decode_images([encoded(Image.new("RGB", size)) for size in ((6, 4), (4, 6))], EXACT, LIMITS)


# Refusals


@pytest.mark.parametrize("sizes", [[(11, 10)], [(5, 10), (6, 10)]], ids=["one_image", "a_batch"])
def test_too_many_pixels_are_refused_before_any_is_decoded(
    sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [encoded(Image.new("RGB", size)) for size in sizes]
    # Decoding would now end in another error than the one expected.
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)

    with pytest.raises(TooLargeError, match=r"110 pixels so far; at most 100"):
        decode_images(files, SPEC, Limits(max_pixels=100))


def with_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header lies about its size (its checksum is mended)."""
    chunk = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + png[24:29]
    return png[:12] + chunk + zlib.crc32(chunk).to_bytes(4) + png[33:]


@pytest.mark.parametrize(
    ("width", "height"),
    [pytest.param(10_000, 10_000, id="pillow_warns"), pytest.param(100_000, 100_000, id="pillow_raises")],
)
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_decompression_bomb_is_too_large_whatever_pillow_thinks(width: int, height: int, action: str) -> None:
    bomb = with_size(encoded(Image.new("RGB", (1, 1))), width, height)

    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        with pytest.raises(TooLargeError, match=f"{width * height}|{width} x {height}"):
            decode_images([bomb], SPEC, LIMITS)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("size", [(1, 10_000_000), (10_000_000, 1)])
def test_a_sliver_that_would_be_huge_while_resizing_is_too_large(size: tuple[int, int], resize: str) -> None:
    sliver = with_size(encoded(Image.new("RGB", (1, 1))), *size)

    with pytest.raises(TooLargeError, match="pixels while resizing"):
        decode_images([sliver], InputSpec("image", (3, 224, 224), resize=resize), LIMITS)


def test_a_jpeg_of_countless_scans_is_too_large() -> None:
    jpeg = encoded(Image.new("RGB", (16, 16)), "JPEG", progressive=True)
    last = jpeg.rfind(b"\xff\xda")

    with pytest.raises(TooLargeError, match="scans; at most 100"):
        decode_images([jpeg[:last] + jpeg[last:-2] * 200 + jpeg[-2:]], SPEC, LIMITS)


GOOD_PNG = encoded(Image.fromarray(NOISE))
GOOD_JPEG = encoded(Image.fromarray(NOISE), "JPEG")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="text"),
        pytest.param(encoded(Image.new("RGB", (6, 4)), "GIF"), id="gif"),
        pytest.param(encoded(Image.new("RGB", (6, 4)), "BMP"), id="bmp"),
        pytest.param(encoded(Image.new("RGB", (6, 4)), "TIFF"), id="tiff"),
        pytest.param(GOOD_PNG[:-30], id="truncated_png"),
        pytest.param(GOOD_PNG[:20], id="truncated_png_header"),
        pytest.param(GOOD_JPEG[:-30], id="truncated_jpeg"),
        pytest.param(GOOD_JPEG[:100], id="truncated_jpeg_header"),
        pytest.param(with_size(GOOD_PNG, 0, 4), id="no_width"),
    ],
)
def test_a_file_that_is_no_readable_jpeg_or_png_is_unfit_and_named(file: bytes) -> None:
    with pytest.raises(UnfitError, match=r"Image 1 .* is not a readable JPEG or PNG"):
        decode_images([GOOD_PNG, file, GOOD_PNG], SPEC, LIMITS)


def test_a_batch_beyond_the_limit_is_too_large() -> None:
    with pytest.raises(TooLargeError, match="3 images were given; 1 to 2"):
        decode_images([b""] * 3, SPEC, Limits(max_batch=2))


def test_no_images_are_unfit() -> None:
    with pytest.raises(UnfitError, match="0 images"):
        decode_images([], SPEC, LIMITS)


def test_a_model_of_other_channels_takes_no_encoded_images() -> None:
    with pytest.raises(UnfitError, match="takes 4"):
        decode_images([GOOD_PNG], InputSpec("image", (4, 4, 6)), LIMITS)


# Pillow warns of damaged metadata; a warning is no error outside the tests.
@pytest.mark.filterwarnings("ignore::UserWarning")
@bounded
@given(st.sampled_from(["PNG", "JPEG"]), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6))
def test_a_damaged_file_decodes_or_is_refused(kind: str, damages: list[tuple[int, int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = bytearray(encoded(palette_of_two() if kind == "PNG" else Image.fromarray(NOISE), kind, exif=exif))
    for position, value in damages:
        file[position % len(file)] = value

    with suppress(ServiceError):
        assert decode_images([bytes(file)], SPEC, LIMITS).shape == (1, 3, 4, 6)
