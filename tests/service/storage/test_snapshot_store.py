"""Snapshots in the store: there wholly or not at all, whatever fails, and no other file is ever one of them."""

import errno
import os
import resource
import stat
import struct
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from service.errors import StoreFullError, UnfitError, UnknownError
from service.storage.backends.blobs import FolderBlobs
from service.storage.backends.database import open_database
from service.storage.snapshots.format import pack, unpack
from service.storage.snapshots.store import SnapshotStore
from tests.snapshot_files import SMALL, TENSORS, joined, manifest


def store_in(tmp_path):
    database = open_database("", tmp_path / "deep", sharded=True)
    return SnapshotStore(database.engine, FolderBlobs(tmp_path / "deep" / "snapshots"))


@pytest.fixture
def folder(tmp_path):
    return store_in(tmp_path)


def path_of(tmp_path, snapshot_id):
    return tmp_path / "deep" / "snapshots" / f"{snapshot_id}.safetensors"


def put(folder, *ids, **changes):
    for number, snapshot_id in enumerate(ids):
        folder.put(snapshot_id, pack(manifest(snapshot_id, created=float(number), **changes), TENSORS))


def listed(folder):
    return [found.id for found, _ in folder.manifests()]


A, B, C = "a" * 24, "b" * 24, "c" * 24


def test_a_folder_keeps_lists_and_removes_files(folder, tmp_path):
    put(folder, A, B, C)

    found, size = folder.manifest(B)
    assert (found.id, size) == (B, len(folder.get(B)))
    assert unpack(folder.get(B))[0] == found
    assert listed(folder) == [C, B, A]
    assert listed(store_in(tmp_path)) == [C, B, A]

    folder.delete(B)

    assert listed(folder) == [C, A]
    for call in (folder.get, folder.manifest, folder.delete):
        with pytest.raises(UnknownError, match=f"there is no snapshot '{B}'"):
            call(B)


def test_files_may_be_read_by_their_owner_alone(folder, tmp_path):
    put(folder, A)

    assert stat.S_IMODE(path_of(tmp_path, A).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "snapshot_id",
    ["", "..", "../x", "../../secret", "/etc/passwd", "a" * 23, "A" * 24, f"{'a' * 24}\n", "%2e%2e%2fx", "x" * 5000],
    ids=["empty", "parent", "sibling", "outside", "absolute", "short", "upper_case", "new_line", "encoded", "long"],
)
def test_ids_of_another_form_are_unknown_and_reach_no_file(folder, tmp_path, snapshot_id):
    for name in ("x", "deep/x", "deep/secret", "secret"):
        (tmp_path / f"{name}.safetensors").write_bytes(SMALL)

    for call in (folder.get, folder.manifest, folder.delete):
        with pytest.raises(UnknownError, match="there is no snapshot") as caught:
            call(snapshot_id)
        assert len(str(caught.value)) < 300

    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


def failing(code):
    def fail(*_arguments, **_settings):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture(params=["fsync", "rename"])
def step(request):
    """Which step of writing fails."""
    return (os, "fsync") if request.param == "fsync" else (Path, "rename")


FULL = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES]


@pytest.mark.parametrize("code", [*FULL, errno.EIO], ids=lambda code: errno.errorcode[code])
def test_a_write_that_fails_leaves_nothing_behind_and_harms_nothing(folder, tmp_path, monkeypatch, step, code):
    put(folder, A)
    before = folder.get(A)

    with monkeypatch.context() as patch:
        patch.setattr(*step, failing(code))
        with pytest.raises(StoreFullError if code in FULL else OSError, match=os.strerror(code)) as caught:
            put(folder, B, note="new")
        assert isinstance(caught.value, StoreFullError) == (code in FULL)

    assert listed(folder) == [A]
    assert folder.get(A) == before
    assert [path.name for path in path_of(tmp_path, A).parent.iterdir()] == [f"{A}.safetensors"]
    put(folder, B)
    assert sorted(listed(folder)) == [A, B]


def test_a_write_cut_off_by_the_system_leaves_nothing_behind(folder, tmp_path):
    put(folder, A)
    large = pack(manifest(B), {**TENSORS, "window": torch.zeros(2**23, dtype=torch.uint8)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(large) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.put(B, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert listed(folder) == [A]
    assert len(list(path_of(tmp_path, A).parent.iterdir())) == 1


def test_a_file_that_is_no_snapshot_is_not_taken_in(folder, tmp_path):
    for content in (b"", b"junk", SMALL[:-1]):
        with pytest.raises(UnfitError):
            folder.put(A, content)

    assert listed(folder) == []
    assert list(path_of(tmp_path, A).parent.iterdir()) == []


def test_when_the_folder_cannot_be_synced_the_file_is_whole_and_the_failure_is_told(folder, monkeypatch):
    calls, sync = [], os.fsync

    def fail_second(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fail_second)
    with pytest.raises(OSError, match="Input/output"):
        put(folder, A)

    for found, _ in folder.manifests():
        assert unpack(folder.get(found.id))[0] == found


def test_every_write_syncs_the_file_before_and_the_folder_after_it_gets_its_name(folder, monkeypatch):
    events, sync, rename = [], os.fsync, Path.rename

    def noted_sync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def noted_rename(path, target):
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    put(folder, A)

    assert events == ["file", "rename", "folder"]


DAMAGE = {
    "empty": b"",
    "short": b"\x01\x02",
    "text": b"this is not a snapshot, whatever its name says",
    "half": SMALL[: len(SMALL) // 2],
    "endless_header": struct.pack("<Q", 2**62) + b"{}",
    "another_manifest": joined({"__metadata__": {"manifest": "{}"}}, b""),
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused_and_not_adopted_and_is_left_where_it_is(folder, tmp_path, content):
    put(folder, A, B)
    for snapshot_id in (A, C):
        path_of(tmp_path, snapshot_id).write_bytes(content)

    with capture_logs() as logs:
        assert folder.adopt() == 0

    assert [(entry["event"], entry["snapshot"]) for entry in logs] == [("snapshot_unreadable", C)]
    assert path_of(tmp_path, C).read_bytes() == content
    assert listed(folder) == [B, A]
    with pytest.raises(UnfitError):
        unpack(folder.get(A))


def test_a_file_that_is_gone_is_named(folder, tmp_path):
    put(folder, A)
    path_of(tmp_path, A).unlink()

    with pytest.raises(UnfitError, match="its file is gone"):
        folder.get(A)


def test_snapshots_of_an_older_version_are_adopted_once(folder, tmp_path):
    path_of(tmp_path, A).write_bytes(pack(manifest(A), TENSORS))

    assert [folder.adopt(), folder.adopt()] == [1, 0]
    assert listed(folder) == [A]
    assert unpack(folder.get(A))[0].id == A


def test_files_that_are_no_snapshots_by_name_are_not_adopted(folder, tmp_path):
    put(folder, A)
    for name in (".writing-abc", "notes.txt", "model.safetensors", f"{B}.safetensors.bak", f"{B.upper()}.safetensors"):
        (path_of(tmp_path, A).parent / name).write_bytes(SMALL)

    with capture_logs() as logs:
        assert folder.adopt() == 0

    assert logs == []
