"""The files of source artefacts: read, refused if they cannot be right, and written whole."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.errors import BundleError
from service.models.artefacts import RECORD, Record, write_artefact
from service.models.bundle import read_bundle
from tests.bundles import torch_bundle


@pytest.fixture
def bundle(tmp_path):
    return torch_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("name", "tensors", "metadata", "said"),
    [
        pytest.param("fisher", {"x": torch.tensor([1.0, float("nan")])}, None, "'x' holds NaN or infinity", id="nan"),
        pytest.param("fisher@a@b@c", {"x": torch.ones(1)}, None, "is named wrongly, expected ARTEFACT", id="name"),
        pytest.param("fisher@batch@x", {"x": torch.ones(1)}, None, "is named wrongly", id="no_batch"),
        pytest.param("fisher", {"x": torch.ones(1)}, {RECORD: "{}"}, "invalid record of its origin", id="record"),
        pytest.param("fisher", {"x": torch.ones(1)}, {RECORD: "no"}, "invalid record of its origin", id="no_json"),
    ],
)
def test_artefacts_that_cannot_be_right_are_refused_when_read(bundle, name, tensors, metadata, said):
    (bundle / "artefacts").mkdir()
    save_file(tensors, bundle / "artefacts" / f"{name}.safetensors", metadata=metadata)

    with pytest.raises(BundleError, match=said) as caught:
        read_bundle(bundle)

    assert f"{name}.safetensors" in str(caught.value)


def test_artefacts_without_a_record_and_with_foreign_metadata_are_read(bundle):
    (bundle / "artefacts").mkdir()
    save_file({"x": torch.ones(1)}, bundle / "artefacts" / "fisher.safetensors", metadata={"format": "pt"})

    assert list(read_bundle(bundle).artefacts) == ["fisher.x"]


RECORDED = Record(fingerprint="f", images=1, data="d")


def failing(code):
    def fail(*_arguments, **_settings):
        raise OSError(code, os.strerror(code))

    return fail


WRITING = [(os, "open"), (os, "fsync"), (Path, "read_bytes"), (Path, "rename")]


@pytest.mark.parametrize("step", WRITING, ids=lambda step: step[1])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=lambda code: errno.errorcode[code])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step, code):
    file = tmp_path / "artefacts" / "fisher.safetensors"
    write_artefact(file, {"x": torch.ones(3)}, RECORDED)
    before = file.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(*step, failing(code))
        with pytest.raises(BundleError, match=f"cannot be written: {os.strerror(code)}"):
            write_artefact(file, {"x": torch.zeros(3)}, RECORDED)

    assert file.read_bytes() == before
    assert [left.name for left in file.parent.iterdir()] == ["fisher.safetensors"]


def test_files_can_be_read_by_whom_the_umask_says(tmp_path):
    file = tmp_path / "artefacts" / "fisher.safetensors"
    old = os.umask(0o027)
    try:
        write_artefact(file, {"x": torch.ones(3)}, RECORDED)
    finally:
        os.umask(old)

    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_tensors_that_share_memory_can_be_written(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    write_artefact(tmp_path / "x.safetensors", {"a": shared, "b": shared.T, "c": shared[0]}, RECORDED)

    assert torch.equal(load_file(tmp_path / "x.safetensors")["b"], shared.T)
