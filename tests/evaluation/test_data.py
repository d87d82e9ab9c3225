"""Labelled data: what each layout is read as, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.demo.corruptions import CORRUPTIONS, corrupt
from service.demo.drift import STREAM
from service.errors import UnfitError
from service.offline.evaluation.data import Domains, Items, in_memory, mapped, with_blends
from service.offline.evaluation.layouts import CIFAR10C, Wanted, read_data
from service.types import InputSpec

SPEC = InputSpec("images", (3, 4, 6))
GREY = InputSpec("images", (1, 28, 28))
CLASSES = tuple("abcde")
RNG = np.random.default_rng(0)


def pixels(count, shape=(4, 6, 3)):
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def all_images(domain):
    return domain.images.take(np.arange(len(domain)))


def cifar_folder(folder, names, count=7):
    arrays = {name: pixels(count) for name in names}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", np.arange(count, dtype=np.uint8) % 5)
    return arrays


def test_a_small_cifar_folder_is_one_severity_and_channels_come_first(tmp_path):
    arrays = cifar_folder(tmp_path, ("fog", "snow", "my_noise"))
    np.save(tmp_path / "order_dirichlet_0.1.npy", np.zeros((15, 7), np.int32))

    found = read_data(tmp_path, SPEC, CLASSES, Wanted())

    assert found.names == ("snow", "fog", "my_noise")
    assert found.by_name["fog"].labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    for name, array in arrays.items():
        assert np.array_equal(all_images(found.by_name[name]), array.transpose(0, 3, 1, 2))


def test_a_folder_with_all_15_corruptions_shows_clean_images_and_extras_only_if_asked(tmp_path):
    cifar_folder(tmp_path, (*CIFAR10C, "clean", "spatter"))
    np.save(tmp_path / "source_images.npy", pixels(30))

    assert read_data(tmp_path, SPEC, CLASSES, Wanted()).names == CIFAR10C
    assert read_data(tmp_path, SPEC, CLASSES, Wanted(domains=("spatter", "clean"))).names == ("spatter", "clean")


def test_a_full_cifar_array_holds_five_severities(tmp_path):
    # One pixel an image keeps 50,000 rows small; a row's value tells its severity.
    severities = np.repeat(np.arange(1, 6, dtype=np.uint8), 10_000)
    np.save(tmp_path / "fog.npy", severities.reshape(-1, 1, 1, 1))
    np.save(tmp_path / "labels.npy", np.tile(np.arange(10_000) % 5, 5))
    spec = InputSpec("images", (1, 1, 1))

    usual = read_data(tmp_path, spec, CLASSES, Wanted()).by_name["fog"]
    mild = read_data(tmp_path, spec, CLASSES, Wanted(severity=2, images=9)).by_name["fog"]

    assert (len(usual), len(mild)) == (10_000, 9)
    assert (all_images(usual) == 5).all()
    assert (all_images(mild) == 2).all()
    assert [int(usual.levels[level].take(np.array([9_999]))[0, 0, 0, 0]) for level in range(1, 6)] == [1, 2, 3, 4, 5]


def test_labels_that_differ_between_severities_are_refused(tmp_path):
    np.save(tmp_path / "fog.npy", np.zeros((50_000, 1, 1, 1), np.uint8))
    np.save(tmp_path / "labels.npy", np.r_[np.zeros(49_999, np.int64), 1])

    with pytest.raises(UnfitError, match="the same 10,000 labels five times"):
        read_data(tmp_path, InputSpec("images", (1, 1, 1)), CLASSES, Wanted())


def test_image_files_are_decoded_as_the_server_would_and_labelled_by_folder(tmp_path):
    colours = {("clean", "a"): (0, 10, 20), ("dark", "e"): (1, 2, 3), ("dark", "1"): (200, 100, 50)}
    for (domain, label), colour in colours.items():
        (tmp_path / domain / label).mkdir(parents=True)
        Image.new("RGB", (12, 8), colour).save(tmp_path / domain / label / "x.png")
        (tmp_path / domain / label / "notes.txt").write_text("no image")

    found = read_data(tmp_path, SPEC, CLASSES, Wanted())

    assert found.names == ("clean", "dark")
    assert found.by_name["dark"].labels.tolist() == [1, 4]
    assert np.array_equal(all_images(found.by_name["dark"])[:, :, 3, 5], [[200, 100, 50], [1, 2, 3]])


def test_of_image_files_a_sample_of_all_classes_is_drawn(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "d" / label).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (6, 4)).save(tmp_path / "d" / label / f"{number}.jpg")

    labels = read_data(tmp_path, SPEC, CLASSES, Wanted(images=16)).by_name["d"].labels

    assert len(labels) == 16
    assert set(labels.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(SPEC, (4, 6, 3)), (SPEC, (3, 4, 6)), (GREY, (28, 28))],
    ids=["channels last", "channels first", "grey"],
)
def test_an_npz_is_read_in_each_of_its_forms(tmp_path, spec, shape):
    images, names = pixels(6, shape), np.array(["night", "day", "night", "day", "day", "night"])
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(6) % 5, domains=names)

    found = read_data(tmp_path / "d.npz", spec, CLASSES, Wanted())

    expected = images.transpose(0, 3, 1, 2) if shape == (4, 6, 3) else images.reshape(6, *spec.shape)
    assert found.names == ("night", "day")
    assert np.array_equal(all_images(found.by_name["day"]), expected[[1, 3, 4]])
    assert found.by_name["night"].labels.tolist() == [0, 2, 0]


def test_an_npz_without_domains_is_one(tmp_path):
    np.savez(tmp_path / "d.npz", images=pixels(6), labels=np.arange(6) % 5)

    assert read_data(tmp_path / "d.npz", SPEC, CLASSES, Wanted()).names == ("data",)


def test_the_embedded_images_are_clean_and_corrupted_at_the_severity_asked():
    with np.load(STREAM) as stored:
        images = stored["images"][:20]

    found = read_data(None, GREY, CLASSES * 2, Wanted(images=20, severity=3, domains=("fog", "clean")))

    seed = 1 + list(CORRUPTIONS).index("fog")
    assert found.names == ("fog", "clean")
    assert np.array_equal(all_images(found.by_name["clean"])[:, 0], images)
    assert np.array_equal(all_images(found.by_name["fog"])[:, 0], corrupt(images, "fog", 3, seed))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        pytest.param({"labels": [0]}, "has no array 'images'; it has: labels", id="no images"),
        pytest.param({"images": pixels(2).astype(float), "labels": [0, 1]}, "are float64", id="floats"),
        pytest.param({"images": pixels(2, (5, 5, 3)), "labels": [0, 1]}, r"takes uint8 \(N, 3, 4, 6\)", id="size"),
        pytest.param({"images": pixels(2), "labels": [0]}, "2 images", id="too few labels"),
        pytest.param({"images": pixels(2), "labels": [0, 7]}, "from 0 to 7, the model's from 0 to 4", id="label"),
        pytest.param({"images": pixels(2), "labels": [0.5, 1]}, "expected integers", id="fractions"),
        pytest.param({"images": pixels(1), "labels": np.array([object()])}, "no readable .npz", id="objects"),
    ],
)
def test_an_unfit_npz_is_refused_with_what_was_found(tmp_path, arrays, said):
    np.savez(tmp_path / "d.npz", allow_pickle=True, **arrays)

    with pytest.raises(UnfitError, match=said):
        read_data(tmp_path / "d.npz", SPEC, CLASSES, Wanted())


def test_what_is_of_no_layout_is_refused_with_those_there_are(tmp_path):
    (tmp_path / "x.txt").write_text("")

    for path in (tmp_path, tmp_path / "x.txt", tmp_path / "nowhere"):
        with pytest.raises(UnfitError, match=r"expected a folder of <corruption>\.npy and labels\.npy"):
            read_data(path, SPEC, CLASSES, Wanted())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(domains=("rain",)), "no domain 'rain'; there are: fog"),
        (Wanted(domains=("fog", "fog")), "named twice"),
        (Wanted(severity=3), "leave --severity out"),
    ],
)
def test_a_wish_that_the_data_cannot_meet_is_refused(tmp_path, wanted, said):
    cifar_folder(tmp_path, ("fog",))

    with pytest.raises(UnfitError, match=said):
        read_data(tmp_path, SPEC, CLASSES, wanted)


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    cifar_folder(tmp_path, ("fog",))
    np.save(tmp_path / "snow.npy", pixels(6))
    with pytest.raises(UnfitError, match=r"snow\.npy has 6 images and labels\.npy 7"):
        read_data(tmp_path, SPEC, CLASSES, Wanted())

    np.save(tmp_path / "snow.npy", pixels(7, (8, 8, 3)))
    with pytest.raises(UnfitError, match=r"snow\.npy is uint8 \(7, 8, 8, 3\); the model takes"):
        read_data(tmp_path, SPEC, CLASSES, Wanted())


def test_a_class_folder_that_names_no_class_is_refused(tmp_path):
    (tmp_path / "d" / "zebra").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "d" / "zebra" / "1.png")

    with pytest.raises(UnfitError, match=r"named as no class of the model; expected one of a, b, c, d, e"):
        read_data(tmp_path, SPEC, CLASSES, Wanted())


def test_a_corrupt_image_file_is_refused(tmp_path):
    (tmp_path / "d" / "a").mkdir(parents=True)
    (tmp_path / "d" / "a" / "1.png").write_bytes(b"no image")

    with pytest.raises(UnfitError, match="not a readable JPEG or PNG"):
        read_data(tmp_path, SPEC, CLASSES, Wanted())


def test_milder_severities_are_blended_with_the_clean_images_pixel_by_pixel():
    labels = np.arange(2)
    clean = in_memory(np.full((2, 3, 4, 6), 100, np.uint8), labels)
    fog = in_memory(np.full((2, 3, 4, 6), 200, np.uint8), labels)

    found = with_blends(Domains({"clean": clean, "fog": fog})).by_name

    values = [int(found["fog"].levels[level].take(np.array([1]))[0, 0, 0, 0]) for level in range(1, 6)]
    assert values == [120, 140, 160, 180, 200]
    assert set(found["clean"].levels) == {0}


def test_images_that_are_not_those_of_the_clean_domain_are_not_blended():
    domains = Domains({"clean": in_memory(pixels(2), np.arange(2)), "fog": in_memory(pixels(2), np.arange(2) + 1)})

    assert set(with_blends(domains).by_name["fog"].levels) == {0}


def test_images_written_for_other_processes_are_the_same_and_each_array_is_written_once(tmp_path):
    labels = np.arange(3)
    domains = with_blends(Domains({name: in_memory(pixels(3), labels) for name in ("clean", "fog")}))
    items = Items(np.array([1, 0, 1, 1]), np.array([5, 0, 2, 5]), np.array([2, 1, 0, 0]))

    moved = mapped(domains, tmp_path)

    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(moved.pixels(items), domains.pixels(items))


def test_images_of_several_domains_come_in_the_order_asked():
    first, second = (
        in_memory(
            np.full((3, 1, 1, 1), start, np.uint8) + np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1),
            np.arange(3) + start,
        )
        for start in (10, 20)
    )
    items = Items(np.array([1, 0, 1]), np.zeros(3, np.int64), np.array([2, 0, 1]))
    domains = Domains({"first": first, "second": replace(second)})

    assert domains.pixels(items).ravel().tolist() == [22, 10, 21]
    assert domains.labels(items).tolist() == [22, 10, 21]
