"""Corruptions: deterministic by seed, shape-preserving, and harder with severity."""

from pathlib import Path

import numpy as np
import pytest

from service.demo import corruptions
from service.demo.corruptions import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture(scope="module")
def images():
    """Return the first 64 images (28, 28) of the demo's stream."""
    with np.load(Path(corruptions.__file__).with_name("stream.npz")) as arrays:
        return arrays["images"][:64]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_equal_seeds_give_equal_bytes(name, images):
    first = corrupt(images, name, severity=3, seed=11)
    second = corrupt(images, name, severity=3, seed=11)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog", "rotation", "elastic"]
)
def test_another_seed_draws_anew(name, images):
    first = corrupt(images, name, severity=3, seed=11)
    second = corrupt(images, name, severity=3, seed=12)
    assert (first != second).any()


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 28, 28, 1), (3, 20, 31, 3), (0, 28, 28)], ids=str)
def test_shape_and_dtype_are_kept_and_the_input_untouched(name, shape):
    original = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    given = original.copy()
    result = corrupt(given, name, severity=5, seed=0)
    assert result.shape == shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(given, original)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_grey_channel_axis_changes_nothing(name, images):
    flat = corrupt(images, name, severity=4, seed=5)
    with_channel = corrupt(images[..., None], name, severity=4, seed=5)
    np.testing.assert_array_equal(flat, with_channel[..., 0])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity(name, images):
    clean = images.astype(float)
    damage = [((corrupt(images, name, severity, seed=0) - clean) ** 2).mean() for severity in SEVERITIES]
    assert damage[0] > 0
    assert damage == sorted(set(damage))


def test_an_unknown_name_lists_the_valid_ones(images):
    with pytest.raises(ValueError, match=r"No corruption named 'snow'; there are: gaussian_noise, .*jpeg"):
        corrupt(images, "snow", severity=1, seed=0)


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_an_unknown_severity_lists_the_valid_ones(severity, images):
    with pytest.raises(ValueError, match=rf"No severity {severity}; there are: 1, 2, 3, 4, 5"):
        corrupt(images, "fog", severity=severity, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 28, 28), dtype=np.float32), np.zeros((28, 28), dtype=np.uint8), np.zeros((2, 8, 8, 4), np.uint8)],
    ids=["float", "one image", "four channels"],
)
def test_other_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="Expected uint8 images"):
        corrupt(wrong, "fog", severity=1, seed=0)
