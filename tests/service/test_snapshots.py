"""Snapshots: a file that verifies itself, a folder that holds whole files only, and what may be restored onto what."""

import errno
import json
import os
import resource
import stat
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.state import flatten, rebuild
from service import engine
from service.bundles import read_bundle
from service.errors import StoreFullError, UnfitError, UnknownError
from service.hosting import host
from service.retries import RetryLog
from service.snapshots.format import MAX_HEADER_BYTES, Manifest, Replay, pack, read_manifest, unpack
from service.snapshots.store import SnapshotStore
from service.snapshots.streams import file_of, state_for, warning_for
from service.store.blobs import FolderBlobs
from service.store.database import open_database
from service.streams import Stream, initial_state
from tests.bundles import FACTORY, torch_bundle
from tests.serving import images

MADE = settings(deadline=None, derandomize=True, database=None)
REPLAY = Replay(backend="torch", threads=1, torch="2", onnxruntime="1")
TENSORS = {"adapter/steps": torch.tensor(3), "window": torch.arange(6, dtype=torch.uint8).reshape(2, 3)}
SPECS = ["batch+tent", "unmix_tns+eta+lame", "source", "rotta", "note"]
WORDS = st.sampled_from(["__metadata__", "manifest", "dtype", "shape", "data_offsets", "a"])
HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda some: st.dictionaries(WORDS, some) | st.lists(some),
    max_leaves=12,
)


def manifest(snapshot_id="0" * 24, **changes):
    facts = {
        "id": snapshot_id, "stream": "s", "name": "n", "model": "m", "fingerprint": "f", "adapter": "batch",
        "options": {}, "mode": "adapt", "adapt_batch_size": 1, "generation": 4, "steps": 3, "created": 1.5,
        "contains_inputs": True, "replay": REPLAY,
    }  # fmt: skip
    return Manifest(**facts | changes)


SMALL = pack(manifest(), TENSORS)


def parts(file):
    """The length, the JSON header and the tensors of a file."""
    length = struct.unpack("<Q", file[:8])[0]
    return length, json.loads(file[8 : 8 + length]), file[8 + length :]


def joined(header, payload):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def assert_same(tensors, expected):
    assert sorted(tensors) == sorted(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert all(tensors[name].dtype == expected[name].dtype for name in expected)


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param({}, id="none"),
        pytest.param(TENSORS, id="scalar_and_bytes"),
        pytest.param({"a": torch.zeros(0, 3), "b": torch.tensor([True, False])}, id="empty_and_bool"),
        pytest.param({"x/é/y": torch.rand(3, 4, dtype=torch.float64)}, id="any_name"),
        pytest.param({"__metadata": torch.full((2,), torch.nan)}, id="nan"),
    ],
)
def test_a_file_gives_back_manifest_and_tensors(tensors):
    given = manifest(options={"tent": {"lr": 1e-4}, "seed": 7}, note='say "snåp"\n', parent="1" * 24)

    read, found = unpack(pack(given, tensors))

    assert read.model_copy(update={"sha256": ""}) == given
    assert len(read.sha256) == 64
    assert sorted(found) == sorted(tensors)
    assert all(torch.equal(found[name].nan_to_num(), tensors[name].nan_to_num()) for name in tensors)


def test_a_file_is_plain_safetensors_and_its_head_alone_tells_the_manifest():
    length, header, _ = parts(SMALL)

    assert set(header) == {"__metadata__", *TENSORS}
    assert read_manifest(SMALL[: 8 + length]) == unpack(SMALL)[0]


def test_equal_content_gives_equal_bytes_and_any_other_fact_another_sha256():
    changes = [{"stream": "t"}, {"generation": 5}, {"note": "x"}, {"options": {"seed": 1}}, {"exact": False}]

    sums = {unpack(pack(manifest(**change), TENSORS))[0].sha256 for change in changes}

    assert pack(manifest(), TENSORS) == SMALL
    assert len(sums | {unpack(SMALL)[0].sha256}) == len(changes) + 1


def test_every_flipped_bit_is_refused_or_changes_nothing():
    read, tensors = unpack(SMALL)
    unchanged = 0

    for place in range(len(SMALL) * 8):
        flipped = bytearray(SMALL)
        flipped[place // 8] ^= 1 << place % 8
        try:
            found, held = unpack(bytes(flipped))
        except UnfitError:
            continue
        assert found == read, place
        assert_same(held, tensors)
        unchanged += 1

    assert unchanged < 64  # JSON's white space alone may change


def test_every_truncation_is_refused():
    for length in range(len(SMALL)):
        with pytest.raises(UnfitError):
            unpack(SMALL[:length])


@pytest.mark.parametrize("more", [b"\0", b" ", b"\0" * 100], ids=["zero", "space", "many"])
def test_bytes_behind_the_end_are_refused(more):
    with pytest.raises(UnfitError):
        unpack(SMALL + more)


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff" * 8)
@example(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}")
@example(struct.pack("<Q", 2) + b"{}")
@example(struct.pack("<Q", 4) + b"null")
@example(joined({"__metadata__": {"manifest": 5}}, b""))
@example(joined({"__metadata__": ["manifest"]}, b""))
@example(joined({"__metadata__": {"manifest": "{}"}}, b""))
@example(joined(b"[" * 100_000, b""))
@example(joined(b"\xff\xfe{\0}\0", b""))
@MADE
def test_random_bytes_are_refused_as_no_snapshot(content):
    with pytest.raises(UnfitError):
        unpack(content)


@given(HEADERS)
@MADE
def test_random_headers_are_refused_as_no_snapshot(header):
    with pytest.raises(UnfitError):
        unpack(joined(header, b"\0" * 8))


@given(start=st.integers(0, len(SMALL)), removed=st.integers(0, 40), inserted=st.binary(max_size=40))
@MADE
def test_a_patched_file_is_refused_or_says_the_same(start, removed, inserted):
    patched = SMALL[:start] + inserted + SMALL[start + removed :]
    try:
        read, tensors = unpack(patched)
    except UnfitError:
        return
    assert read == unpack(SMALL)[0]
    assert_same(tensors, TENSORS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"format": "acclimate-snapshot-9"}, "manifest is wrong: format", id="format"),
        pytest.param({"id": "../../etc"}, "manifest is wrong: id", id="id"),
        pytest.param({"steps": -1}, "manifest is wrong: steps", id="negative_steps"),
        pytest.param({"mode": "delete"}, "manifest is wrong: mode", id="mode"),
        pytest.param({"adapt_batch_size": 0}, "manifest is wrong: adapt_batch_size", id="adapt_batch_size"),
        pytest.param({"stranger": 1}, "manifest is wrong: stranger", id="unknown_fact"),
        pytest.param({"generation": 5}, "sha256 does not match", id="another_generation"),
        pytest.param({"sha256": "0" * 64}, "sha256 does not match", id="another_sha256"),
        pytest.param({"note": "\ud800"}, "manifest is wrong", id="half_a_character"),
    ],
)
def test_a_changed_manifest_is_refused_by_its_fault(change, said):
    _, header, payload = parts(SMALL)
    facts = json.loads(header["__metadata__"]["manifest"]) | change
    header["__metadata__"]["manifest"] = json.dumps(facts)

    with pytest.raises(UnfitError, match=said):
        unpack(joined(header, payload))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The reference model, and one that differs in how inputs reach it."""
    folder = tmp_path_factory.mktemp("models")
    paths = [torch_bundle(folder / name, name=name) for name in ("one", "other")]
    toml = paths[1] / "bundle.toml"
    text = "shape = [3, 16, 16]"
    toml.write_text(toml.read_text().replace(text, f"{text}\nmean = [0.5, 0.5, 0.5]\nstd = [1.0, 1.0, 1.0]"))
    return [host(read_bundle(path), [FACTORY], 1) for path in paths]


def begin(model, spec="batch+tent", options=None, steps=0, waiting=0, **settings):
    """A stream that has learned from some batches and holds some waiting images."""
    fitted = model.fit(spec, options or {})
    state = initial_state(model, fitted)
    stream = Stream("s", model, fitted, state, RetryLog(32, 2**20), adapt_batch_size=4, **settings)
    for seed in range(steps):
        serve(stream, 4, seed)
    if waiting:
        serve(stream, waiting, 99)
    return stream


def serve(stream, count, seed):
    x = torch.from_numpy(images(count, seed))
    return engine.serve(stream, x, wants_source=False, source_check_every=20).output


@pytest.mark.parametrize("spec", SPECS)
def test_a_restored_stream_goes_on_bit_by_bit_as_the_one_that_was_snapshotted(models, spec):
    stream = begin(models[0], spec, {"seed": 3}, steps=3, waiting=2)
    _, file = file_of(stream, "kept")

    restored = begin(models[0], spec, {"seed": 3}, steps=5)
    engine.restore(restored, state_for(restored, *unpack(file)))

    assert restored.steps == 3
    for seed in range(20, 24):
        ours, theirs = (serve(some, 4, seed) for some in (restored, stream))
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.probabilities, theirs.probabilities)
    assert_same(flatten(restored.state.adapter), flatten(stream.state.adapter))


def test_a_manifest_tells_what_the_snapshot_is_of(models):
    stream = begin(models[0], options={"tent": {"lr": 1e-4}}, steps=2, waiting=1, parent="a" * 24)

    told, file = file_of(stream, "kept", "before the storm")

    read, _ = unpack(file)
    assert read.model_copy(update={"sha256": ""}) == told
    assert (read.stream, read.name, read.note, read.kind) == ("s", "kept", "before the storm", "taken")
    assert (read.model, read.fingerprint) == ("one", models[0].bundle.fingerprint)
    assert (read.adapter, read.options) == ("batch+tent", {"tent": {"lr": 1e-4}})
    assert (read.generation, read.steps, read.parent, read.adapt_batch_size) == (2, 2, "a" * 24, 4)
    assert (read.replay.backend, read.replay.threads) == ("torch", torch.get_num_threads())
    assert read.contains_inputs
    assert not file_of(begin(models[0]), "empty")[0].contains_inputs


@pytest.mark.parametrize("spec", ["rotta", "note"])
def test_a_snapshot_of_a_memory_says_so_and_without_inputs_empties_it_and_is_not_exact(models, spec):
    stream = begin(models[0], spec, {spec: {"period": 6, "capacity": 8}}, steps=3)
    kept, whole = file_of(stream, "kept")
    dropped, emptied = file_of(stream, "dropped", drop_inputs=True)

    assert (kept.contains_inputs, kept.exact) == (True, True)
    assert (dropped.contains_inputs, dropped.exact) == (False, False)
    held, without = unpack(whole)[1], unpack(emptied)[1]
    memory = {name for name in held if name.startswith("adapter/learner/memory/")}
    fresh = flatten(stream.fitted.initial())
    assert held["adapter/learner/memory/places/images"].any()
    assert_same(
        {name: without[name] for name in memory}, {name: fresh[name.removeprefix("adapter/")] for name in memory}
    )
    assert_same({n: t for n, t in without.items() if n not in memory}, {n: held[n] for n in held if n not in memory})

    restored = begin(models[0], spec, {spec: {"period": 6, "capacity": 8}})
    engine.restore(restored, state_for(restored, *unpack(emptied)))
    assert "private inputs left out" in warning_for(restored, dropped)
    assert serve(restored, 8, 7).logits.isfinite().all()


def test_taking_a_snapshot_leaves_the_stream_and_learning_on_leaves_the_snapshot(models):
    stream, twin = begin(models[0], steps=2, waiting=1), begin(models[0], steps=2, waiting=1)
    state, generation = stream.state, stream.generation

    _, file = file_of(stream, "kept")
    again = file_of(stream, "kept")[1]

    assert (stream.state, stream.generation) == (state, generation)
    answers = [serve(some, 6, 7) for some in (stream, twin)]
    assert torch.equal(answers[0].logits, answers[1].logits)
    assert_same(unpack(file)[1], unpack(again)[1])


@pytest.fixture
def taken(models):
    """A stream, and the manifest and tensors of a snapshot of it."""
    stream = begin(models[0], steps=2, waiting=1)
    return stream, *unpack(file_of(stream, "kept")[1])


def first_weight(tensors):
    return min(name for name in tensors if name.endswith("weight"))


def replaced(tensors, change):
    name = first_weight(tensors)
    return tensors | {name: change(tensors[name])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda t: replaced(t, lambda w: w * torch.nan), "holds NaN or infinity", id="nan"),
        pytest.param(lambda t: replaced(t, lambda w: w / 0), "holds NaN or infinity", id="infinity"),
        pytest.param(lambda t: replaced(t, lambda w: w[:-1]), r"\(7,\), expected torch.float32 \(8,\)", id="shape"),
        pytest.param(
            lambda t: replaced(t, lambda w: w.double()), "torch.float64 .* expected torch.float32", id="dtype"
        ),
        pytest.param(lambda t: {k: v for k, v in t.items() if k != first_weight(t)}, "the state lacks", id="missing"),
        pytest.param(lambda t: t | {"adapter/more": torch.zeros(1)}, r"has \['more'\] beyond it", id="stranger"),
        pytest.param(lambda t: {k: v for k, v in t.items() if k != "window"}, "window does not fit", id="no_window"),
        pytest.param(lambda t: t | {"window": t["window"].float()}, "window does not fit", id="window_dtype"),
        pytest.param(lambda t: t | {"window": t["window"][:, :1]}, "window does not fit", id="window_shape"),
        pytest.param(lambda t: t | {"window": torch.tensor(1, dtype=torch.uint8)}, "window does not fit", id="scalar"),
    ],
)
def test_tensors_that_are_no_state_of_the_stream_are_refused(taken, change, said):
    stream, read, tensors = taken
    before = stream.state

    with pytest.raises(UnfitError, match=said):
        state_for(stream, read, change(tensors))

    assert stream.state is before


def test_a_snapshot_of_another_model_is_refused_by_both_names(models, taken):
    _, read, tensors = taken

    with pytest.raises(UnfitError, match=r"the snapshot is of model 'one' \([0-9a-f]{12}\), stream 's' is of 'other'"):
        state_for(begin(models[1]), read, tensors)


@pytest.mark.parametrize("spec", ["batch", "unmix_tns+tent", "batch+tent+lame", "batch+eta"])
def test_a_snapshot_of_another_spec_is_refused_by_both_specs(models, taken, spec):
    _, read, tensors = taken

    with pytest.raises(UnfitError) as caught:
        state_for(begin(models[0], spec), read, tensors)

    assert f"the snapshot is of 'batch+tent', stream 's' runs {spec!r}" in str(caught.value)


def test_a_snapshot_of_another_optimizer_is_refused(models, taken):
    _, read, tensors = taken
    other = begin(models[0], options={"tent": {"optimizer": "sgd"}})

    with pytest.raises(UnfitError, match="does not fit stream 's'"):
        state_for(other, read, tensors)


def test_a_state_that_is_not_finite_is_not_snapshotted(models):
    stream = begin(models[0], steps=1)
    tensors = replaced(flatten(stream.state.adapter), lambda weight: weight * torch.nan)
    stream.state = replace(stream.state, adapter=rebuild(stream.state.adapter, tensors))

    with pytest.raises(UnfitError, match="holds NaN or infinity; reset it"):
        file_of(stream, "spoiled")


def test_a_snapshot_taken_under_other_settings_says_which(models, taken):
    stream, read, _ = taken
    elsewhere = read.model_copy(update={"replay": read.replay.model_copy(update={"threads": 8, "torch": "1.0"})})
    otherwise = begin(models[0], options={"tent": {"lr": 0.5}})

    assert warning_for(stream, read) == ""
    assert warning_for(stream, elsewhere).startswith("taken under threads 8 (now 1), torch 1.0 (now ")
    assert "other options" in warning_for(otherwise, read)


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
