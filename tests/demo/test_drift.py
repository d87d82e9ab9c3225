"""The demo's drifting stream: domain after domain, the same at every call, over the shipped test images."""

import inspect
from itertools import groupby

import numpy as np
import pytest

from service.demo.corruptions import CORRUPTIONS
from service.demo.drift import CLEAN, CLEAN_AGAIN, DOMAINS, STREAM, drifting

IMAGES, BATCH, SEVERITY = 30, 12, 3


@pytest.fixture(scope="module")
def stored():
    """The shipped images, as bytes, with the label of each."""
    with np.load(STREAM) as arrays:
        pairs = zip(arrays["images"], arrays["labels"], strict=True)
        return {image.tobytes(): int(label) for image, label in pairs}


@pytest.fixture(scope="module")
def batches():
    return list(drifting(IMAGES, BATCH, SEVERITY))


def of_domain(batches, domain):
    """All images and labels of one domain, in order."""
    mine = [part for part in batches if part.domain == domain]
    return np.concatenate([part.images for part in mine]), np.concatenate([part.labels for part in mine])


def assert_equal(one, other):
    for ours, theirs in zip(one, other, strict=True):
        assert ours.domain == theirs.domain
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_the_same_arguments_give_the_same_stream(batches):
    assert_equal(batches, list(drifting(IMAGES, BATCH, SEVERITY)))
    assert_equal(batches, list(drifting(IMAGES, BATCH, SEVERITY, seed=0)))


def test_another_seed_gives_another_order_and_other_damage(batches):
    other = list(drifting(IMAGES, BATCH, SEVERITY, seed=1))

    for domain in DOMAINS:
        assert not np.array_equal(of_domain(batches, domain)[0], of_domain(other, domain)[0])


def test_another_severity_changes_the_corrupted_domains_alone(batches):
    severe = list(drifting(IMAGES, BATCH, 5))

    for domain in DOMAINS:
        (mild_images, mild_labels), (images, labels) = of_domain(batches, domain), of_domain(severe, domain)
        np.testing.assert_array_equal(mild_labels, labels)
        assert np.array_equal(mild_images, images) == (domain in (CLEAN, CLEAN_AGAIN))


def test_domains_come_in_order_from_clean_through_every_corruption_to_clean_again(batches):
    assert (CLEAN, *CORRUPTIONS, CLEAN_AGAIN) == DOMAINS
    assert [domain for domain, _ in groupby(batches, key=lambda part: part.domain)] == list(DOMAINS)


def test_batches_have_the_shapes_and_types_that_the_model_takes(batches):
    for part in batches:
        assert part.images.shape[1:] == (1, 28, 28)
        assert len(part.images) == len(part.labels) > 0
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert set(part.labels.tolist()) <= set(range(10))


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [
        pytest.param(30, 12, [12, 12, 6], id="the_last_is_smaller"),
        pytest.param(24, 12, [12, 12], id="all_equal"),
        pytest.param(5, 50, [5], id="fewer_than_a_batch"),
        pytest.param(3, 1, [1, 1, 1], id="single_images"),
    ],
)
def test_each_domain_has_its_number_of_images_in_batches(images, batch, sizes):
    found = list(drifting(images, batch, SEVERITY))

    assert len(found) == len(sizes) * len(DOMAINS)
    for domain in DOMAINS:
        assert [len(part.labels) for part in found if part.domain == domain] == sizes


@pytest.mark.parametrize("domain", [CLEAN, CLEAN_AGAIN])
def test_clean_domains_are_shipped_images_with_their_own_labels(batches, stored, domain):
    images, labels = of_domain(batches, domain)

    assert [stored[image[0].tobytes()] for image in images] == labels.tolist()


def test_a_domain_begins_where_the_last_one_ended_so_that_no_image_comes_twice(stored):
    per_domain = len(stored) // len(DOMAINS)
    order = np.random.default_rng(0).permutation(len(stored))
    shipped = list(stored)

    found = list(drifting(per_domain, per_domain, SEVERITY))

    for number, domain in ((0, CLEAN), (len(DOMAINS) - 1, CLEAN_AGAIN)):
        images, _ = of_domain(found, domain)
        places = order[number * per_domain : (number + 1) * per_domain]
        assert [image[0].tobytes() for image in images] == [shipped[place] for place in places]


def test_corrupted_domains_keep_the_labels_and_change_the_images(batches, stored):
    for domain in CORRUPTIONS:
        images, labels = of_domain(batches, domain)
        assert len(labels) == IMAGES
        assert sum(image[0].tobytes() in stored for image in images) < IMAGES / 2, domain


def test_the_size_of_batches_changes_nothing_but_where_they_are_cut(batches):
    whole = list(drifting(IMAGES, IMAGES, SEVERITY))

    for domain in DOMAINS:
        for ours, theirs in zip(of_domain(batches, domain), of_domain(whole, domain), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_stream_is_made_as_it_is_read():
    assert inspect.isgenerator(drifting(2500, 256, 5))
    assert next(drifting(2500, 256, 5)).domain == CLEAN
