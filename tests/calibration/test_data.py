"""Source data on disk: what is read as what, and what is refused with which words."""

import numpy as np
import pytest
import torch
from PIL import Image

from service.errors import UnfitError
from service.models.bundle import read_without_artefacts
from service.offline.calibration import data as data_module
from service.offline.calibration.data import find_data
from tests.bundles import torch_bundle

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 9])


def bundle_of(folder, *changes):
    path = torch_bundle(folder / "bundle")
    text = (path / "bundle.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (path / "bundle.toml").write_text(text)
    return read_without_artefacts(path)


def save_images(folder, pixels, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}{suffix}")


def read_all(found):
    return found.read(range(found.count))


def test_a_folder_by_class_gives_labels_and_the_images_as_the_bundle_prepares_them(tmp_path):
    save_images(tmp_path / "data" / "b", PIXELS[:2])
    save_images(tmp_path / "data" / "j", PIXELS[2:3])
    save_images(tmp_path / "data" / "j" / "deeper", PIXELS)
    (tmp_path / "data" / "j" / "notes.txt").write_text("no image")
    (tmp_path / "data" / ".cache").mkdir()

    read = read_all(find_data(tmp_path / "data", bundle_of(tmp_path)))

    assert read.labels.tolist() == [1, 1, 9]
    assert torch.equal(read.images, torch.from_numpy(PIXELS[:3]).permute(0, 3, 1, 2))


def test_images_of_another_size_are_brought_to_the_models(tmp_path):
    large = np.full((1, 40, 24, 3), 77, np.uint8)
    save_images(tmp_path / "data" / "a", large)

    read = read_all(find_data(tmp_path / "data", bundle_of(tmp_path)))

    assert torch.equal(read.images, torch.full((1, 3, 16, 16), 77, dtype=torch.uint8))


def test_another_value_range_changes_the_inputs_and_not_the_stored_images(tmp_path):
    save_images(tmp_path / "data" / "a", PIXELS)
    wide = bundle_of(tmp_path, ("shape = [3, 16, 16]", "shape = [3, 16, 16]\nvalue_range = [-1.0, 1.0]"))

    read = read_all(find_data(tmp_path / "data", wide))

    assert read.value_range == (-1.0, 1.0)
    assert torch.equal(read.images, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))


def test_a_slash_in_a_class_name_is_an_underscore_in_the_folders(tmp_path):
    save_images(tmp_path / "data" / "shirt_top", PIXELS[:1])

    found = find_data(tmp_path / "data", bundle_of(tmp_path, ('"b"', '"shirt/top"')))

    assert found.labels.tolist() == [1]


def test_a_folder_of_images_alone_is_unlabelled(tmp_path):
    save_images(tmp_path / "data", PIXELS)

    read = read_all(find_data(tmp_path / "data", bundle_of(tmp_path)))

    assert (len(read.images), len(read.labels)) == (6, 0)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("form", ["npz", "npy", "source_npy"])
def test_arrays_are_read_in_either_layout(tmp_path, layout, form):
    images = PIXELS if layout == "NHWC" else PIXELS.transpose(0, 3, 1, 2)
    if form == "npz":
        np.savez_compressed(tmp_path / "data.npz", images=images, labels=LABELS)
    else:
        prefix = form.removesuffix("npy")
        (tmp_path / "data").mkdir()
        np.save(tmp_path / "data" / f"{prefix}images.npy", images)
        np.save(tmp_path / "data" / f"{prefix}labels.npy", LABELS.astype(np.uint8))

    found = find_data(tmp_path / ("data.npz" if form == "npz" else "data"), bundle_of(tmp_path))
    read = found.read([5, 0])

    assert read.labels.tolist() == [9, 0]
    assert read.images.dtype == torch.uint8
    assert torch.equal(read.images, torch.from_numpy(PIXELS[[5, 0]]).permute(0, 3, 1, 2))


def test_grey_images_need_no_channel(tmp_path):
    np.savez(tmp_path / "data.npz", images=PIXELS[..., 0])

    read = read_all(find_data(tmp_path / "data.npz", bundle_of(tmp_path, ("[3, 16, 16]", "[1, 16, 16]"))))

    assert torch.equal(read.images[:, 0], torch.from_numpy(PIXELS[..., 0]))
    assert len(read.labels) == 0


def nothing(folder):
    pass


def unknown_class(folder):
    save_images(folder / "zebra", PIXELS)


def mixed(folder):
    save_images(folder / "a", PIXELS)
    save_images(folder, PIXELS)


def arrays(**named):
    return lambda folder: [np.save(folder / f"{name}.npy", array) for name, array in named.items()]


def broken_array(folder):
    (folder / "images.npy").write_bytes(b"\x93NUMPY no")


REFUSED = [
    pytest.param(nothing, "has no images; expected a folder <class name>", id="empty"),
    pytest.param(unknown_class, "a folder 'zebra', which is no class of the model; classes are 'a', 'b'", id="class"),
    pytest.param(mixed, "has images beside the folders of its classes", id="mixed"),
    pytest.param(arrays(images=PIXELS / 255), r"images float64 .*expected uint8 \(N, 3, 16, 16\) or", id="dtype"),
    pytest.param(arrays(images=PIXELS[:, :8]), r"images uint8 \(6, 8, 16, 3\), expected uint8", id="shape"),
    pytest.param(arrays(images=PIXELS[:0]), r"images uint8 \(0, 16, 16, 3\), expected", id="none"),
    pytest.param(arrays(images=PIXELS, labels=LABELS[1:]), r"labels int64 \(5,\), expected integers", id="count"),
    pytest.param(arrays(images=PIXELS, labels=LABELS / 1), "labels float64", id="float_labels"),
    pytest.param(arrays(images=PIXELS, labels=LABELS + 1), "labels from 1 to 10, expected 0 to 9", id="label"),
    pytest.param(arrays(images=np.array([{}])), "Object arrays|cannot be read", id="pickled"),
    pytest.param(broken_array, "arrays that cannot be read", id="broken"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "said"), REFUSED)
def test_folders_that_are_no_source_data_are_refused(tmp_path, prepare, said):
    (tmp_path / "data").mkdir()
    prepare(tmp_path / "data")

    with pytest.raises(UnfitError, match=said) as caught:
        find_data(tmp_path / "data", bundle_of(tmp_path))

    assert str(tmp_path / "data") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param("nowhere", None, "is missing; expected", id="missing"),
        pytest.param("data.csv", b"1,2", "is a file of another kind; expected", id="kind"),
        pytest.param("data.npz", b"PK no zip", "cannot be read as an .npz", id="no_zip"),
    ],
)
def test_other_paths_are_refused(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(UnfitError, match=said):
        find_data(tmp_path / name, bundle_of(tmp_path))


def test_an_npz_without_images_with_objects_or_too_large_is_refused(tmp_path, monkeypatch):
    bundle = bundle_of(tmp_path)
    np.savez(tmp_path / "other.npz", x=PIXELS)
    np.savez(tmp_path / "objects.npz", images=np.array([{}]))
    np.savez(tmp_path / "large.npz", images=PIXELS)
    monkeypatch.setattr(data_module, "MAX_ARRAY_BYTES", PIXELS.nbytes - 1)

    with pytest.raises(UnfitError, match=r"has the arrays \['x'\], expected images"):
        find_data(tmp_path / "other.npz", bundle)
    with pytest.raises(UnfitError, match="Object arrays cannot be loaded"):
        find_data(tmp_path / "objects.npz", bundle)
    with pytest.raises(UnfitError, match=f"images has {PIXELS.nbytes} bytes, expected at most {PIXELS.nbytes - 1}"):
        find_data(tmp_path / "large.npz", bundle)


def test_an_image_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    save_images(tmp_path / "data" / "a", PIXELS[:1])
    (tmp_path / "data" / "a" / "9.png").write_bytes(b"no image")
    found = find_data(tmp_path / "data", bundle_of(tmp_path))

    found.read([0])
    with pytest.raises(UnfitError, match=r"9\.png: .*is not a readable JPEG or PNG"):
        found.read([1])
    monkeypatch.setattr(data_module, "MAX_FILE_BYTES", 4)
    with pytest.raises(UnfitError, match=r"9\.png has 8 bytes, expected at most 4"):
        found.read([1])


def test_the_number_of_files_is_bounded(tmp_path, monkeypatch):
    save_images(tmp_path / "data" / "a", PIXELS)
    monkeypatch.setattr(data_module, "MAX_FILES", 5)

    with pytest.raises(UnfitError, match="more than 5 images"):
        find_data(tmp_path / "data", bundle_of(tmp_path))
