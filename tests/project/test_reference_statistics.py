"""The benchmark of reference statistics on tiny made folders: what it reads, measures and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from adapters.network.reference_statistics import stored_references
from benchmarks import pacs
from benchmarks.reference_statistics import Result, app, as_table, cifar, measured_on
from tests.project.test_cifar10c import data  # noqa: F401 - a fixture


@pytest.fixture
def folder(data: Path) -> Path:  # noqa: F811 - the fixture
    rng = np.random.default_rng(1)
    np.save(data / "source_images.npy", rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    np.save(data / "source_labels.npy", np.arange(40, dtype=np.int64) % 10)
    return data


def test_both_errors_of_each_spec_and_order_are_in_the_table_and_the_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--spec", "source", "--spec", "batch", "--limit", "4", "--batch", "4", "--json", str(file)]

    done = CliRunner().invoke(app, ["--data", str(folder), *options])

    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    assert [(each["spec"], each["order"]) for each in figures["results"]] == [
        ("source", "fair"), ("source", "correlated"), ("batch", "fair"), ("batch", "correlated"),
    ]  # fmt: skip
    assert all(each["running"] == each["reference"] for each in figures["results"][:2])
    assert "batch" in done.stdout
    assert figures["images"] == "40"


def test_the_reference_is_measured_on_no_more_images_than_asked(folder: Path) -> None:
    subject = cifar(folder)

    few, all_images = (stored_references(measured_on(subject, count).artefacts)["bn1"] for count in (8, 2000))

    assert not torch.equal(few.mean, all_images.mean)


def test_an_unknown_order_is_refused(folder: Path) -> None:
    done = CliRunner().invoke(app, ["--data", str(folder), "--order", "sorted"])

    assert done.exit_code == 2
    assert "there are: fair, correlated" in done.output.replace("\n", " ")


def test_a_difference_has_its_sign() -> None:
    cells = [list(column.cells) for column in as_table([Result("batch", "fair", 69.1, 36.8)]).columns]

    assert cells == [["batch"], ["fair"], ["69.10"], ["36.80"], ["-32.30"]]


def test_a_pacs_domain_is_read_by_class_and_resized(tmp_path: Path) -> None:
    for name in pacs.CLASSES:
        (tmp_path / name).mkdir()
        Image.new("RGB", (227, 227), (250, 10, 10)).save(tmp_path / name / "1.jpg")

    pixels, labels = pacs.read_domain(tmp_path)

    assert (pixels.shape, pixels.dtype) == ((7, 3, 224, 224), np.uint8)
    assert labels.tolist() == list(range(7))
