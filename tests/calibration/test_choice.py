"""Which source images are used: balanced, seeded, and the probe set apart from the rest."""

import pytest
import torch

from service.errors import UnfitError
from service.offline.calibration.choice import choose, digest, digest_of, turns
from service.offline.calibration.data import SourceData


def source_data(labels, classes=4, images=None):
    count = len(labels)
    if images is None:
        images = torch.arange(count).reshape(count, 1, 1, 1).to(torch.uint8)
    return SourceData(torch.tensor(labels), count, classes, (0.0, 1.0), lambda rows: images[list(rows)])


def unlabelled(count):
    images = torch.arange(count).reshape(count, 1, 1, 1).to(torch.uint8)
    return SourceData(torch.zeros(0, dtype=torch.int64), count, 4, (0.0, 1.0), lambda rows: images[list(rows)])


def pixels(images):
    return images.images.flatten().tolist()


def test_classes_take_turns_until_they_have_no_more():
    labels = [0] * 3 + [1] * 5 + [2] * 2 + [3] * 4

    order = turns(source_data(labels))

    assert [labels[row] for row in order] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 3, 1, 3, 1]
    assert sorted(order) == list(range(14))


def test_the_order_is_shuffled_and_always_the_same():
    order = turns(source_data([0, 1, 2, 3] * 25))

    assert order == turns(source_data([0, 1, 2, 3] * 25))
    assert order != sorted(order)
    assert turns(unlabelled(100)) == turns(unlabelled(100)) != list(range(100))


def test_the_probe_set_is_balanced_apart_from_the_rest_and_its_classes_take_turns():
    chosen = choose(source_data([0, 1, 2, 3] * 25), images=40, probe=18, kept_probe=None)

    assert chosen.probe.labels.tolist() == [0, 1, 2, 3] * 4
    assert chosen.images.labels.tolist() == [0, 1, 2, 3] * 10
    assert not set(pixels(chosen.probe)) & set(pixels(chosen.images))


def test_with_a_probe_set_that_is_kept_the_same_images_are_used():
    data = source_data([0, 1, 2, 3] * 25)
    first = choose(data, 40, 16, None)

    second = choose(data, 40, 16, first.probe.images)

    assert second.probe is None
    assert second.why_no_probe == ""
    assert digest(second.images) == digest(first.images)


def test_a_second_copy_of_a_probe_image_is_not_used_either():
    images = torch.arange(20).remainder(10).reshape(20, 1, 1, 1).to(torch.uint8)
    data = source_data([0, 1] * 10, classes=2, images=images)

    chosen = choose(data, 100, 2, None)

    assert len(set(pixels(chosen.probe))) == 2
    assert not set(pixels(chosen.probe)) & set(pixels(chosen.images))
    assert len(chosen.images.images) == 16


def test_a_probe_set_takes_at_most_half_of_any_class():
    chosen = choose(source_data([0] * 5 + [1] * 50 + [2] * 50 + [3] * 50), 1000, 100, None)

    assert chosen.probe.labels.bincount().tolist() == [2, 2, 2, 2]
    assert chosen.images.labels.bincount().tolist() == [3, 48, 48, 48]


@pytest.mark.parametrize(
    ("data", "probe", "why"),
    [
        pytest.param(unlabelled(40), 8, "the source images have no labels", id="unlabelled"),
        pytest.param(source_data([0, 1, 2] * 5), 8, "class 3 has 0 images, at least 2 are needed", id="no_class"),
        pytest.param(source_data([0, 1, 2, 3] * 5), 3, "of 3 images was asked for; 4 classes need one each", id="few"),
    ],
)
def test_where_no_probe_set_can_be_made_it_is_said_why(data, probe, why):
    chosen = choose(data, 1000, probe, None)

    assert chosen.probe is None
    assert why in chosen.why_no_probe
    assert len(chosen.images.images) == data.count


def test_unlabelled_images_stay_unlabelled():
    assert len(choose(unlabelled(40), 30, 8, None).images.labels) == 0


def test_when_nothing_is_left_beside_the_probe_set_it_is_refused():
    data = source_data([0, 1, 2, 3])

    with pytest.raises(UnfitError, match="all source images are in the probe set"):
        choose(data, 10, 4, data.take(range(4)))


def test_the_digest_is_of_images_labels_and_range():
    data = source_data([0, 1, 2, 3] * 5)
    one, other = data.read(range(8)), data.read(range(1, 9))
    relabelled = source_data([0, 1, 2, 2] * 5).read(range(8))

    assert len({digest(one), digest(other), digest(relabelled)}) == 3
    assert digest(one) == digest(data.read(range(8)))
    assert digest_of(one.images[0]) != digest_of(one.images[1])
