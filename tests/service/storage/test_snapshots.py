"""Snapshots: a file that verifies itself, and what may be restored onto what."""

import json
import struct
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.state import flatten, rebuild
from service.errors import UnfitError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.storage.snapshots.format import MAX_HEADER_BYTES, pack, read_manifest, unpack
from service.storage.snapshots.half_precision import NEGLIGIBLE, RELATIVE_ERROR, halved, widened
from service.storage.snapshots.stream_files import state_for, warning_for
from tests import streams
from tests.bundles import FACTORY, torch_bundle
from tests.serving import images
from tests.snapshot_files import SMALL, TENSORS, joined, manifest, parts
from tests.streams import put, restore, snapshot, stream_of

MADE = settings(deadline=None, derandomize=True, database=None)


SPECS = ["batch+tent", "unmix_tns+eta+lame", "source", "rotta", "note"]


WORDS = st.sampled_from(["__metadata__", "manifest", "dtype", "shape", "data_offsets", "a"])


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda some: st.dictionaries(WORDS, some) | st.lists(some),
    max_leaves=12,
)


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

    file = pack(given, tensors)
    read, found = unpack(file)

    told = parts(file)[1]["__metadata__"]
    assert file == safetensors.torch.save(tensors, metadata=told), "byte for byte as the library writes it"
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


def begin(model, spec="batch+tent", options=None, steps=0, waiting=0, **parts):
    """A stream that has learned from some batches and holds some waiting images."""
    stream = stream_of(model, spec, options, adapt_batch_size=4)
    stream.current = replace(stream.current, **parts)
    for seed in range(steps):
        serve(stream, 4, seed)
    if waiting:
        serve(stream, waiting, 99)
    return stream


def serve(stream, count, seed):
    x = torch.from_numpy(images(count, seed))
    return streams.serve(stream, x).output


@pytest.mark.parametrize("spec", SPECS)
def test_a_restored_stream_goes_on_bit_by_bit_as_the_one_that_was_snapshotted(models, spec):
    stream = begin(models[0], spec, {"seed": 3}, steps=3, waiting=2)
    _, file = snapshot(stream, "kept")

    restored = begin(models[0], spec, {"seed": 3}, steps=5)
    restore(restored, file)

    assert restored.current.steps == 3
    for seed in range(20, 24):
        ours, theirs = (serve(some, 4, seed) for some in (restored, stream))
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.probabilities, theirs.probabilities)
    assert_same(flatten(restored.current.state.adapter), flatten(stream.current.state.adapter))


def test_a_manifest_tells_what_the_snapshot_is_of(models):
    stream = begin(models[0], options={"tent": {"lr": 1e-4}}, steps=2, waiting=1, parent="a" * 24)

    told, file = snapshot(stream, "kept", "before the storm")

    read, _ = unpack(file)
    assert read.model_copy(update={"sha256": ""}) == told
    assert (read.stream, read.name, read.note, read.kind) == ("s", "kept", "before the storm", "taken")
    assert (read.model, read.fingerprint) == ("one", models[0].bundle.fingerprint)
    assert (read.adapter, read.options) == ("batch+tent", {"tent": {"lr": 1e-4}})
    assert (read.generation, read.steps, read.parent, read.adapt_batch_size) == (2, 2, "a" * 24, 4)
    assert (read.replay.backend, read.replay.threads) == ("torch", torch.get_num_threads())
    assert read.contains_inputs
    assert not snapshot(begin(models[0]), "empty")[0].contains_inputs


@pytest.mark.parametrize("spec", ["rotta", "note"])
def test_a_snapshot_of_a_memory_says_so_and_without_inputs_empties_it_and_is_not_exact(models, spec):
    stream = begin(models[0], spec, {spec: {"period": 6, "capacity": 8}}, steps=3)
    kept, whole = snapshot(stream, "kept")
    dropped, emptied = snapshot(stream, "dropped", drop_inputs=True)

    assert (kept.contains_inputs, kept.exact) == (True, True)
    assert (dropped.contains_inputs, dropped.exact) == (False, False)
    held, without = unpack(whole)[1], unpack(emptied)[1]
    memory = {name for name in held if name.startswith("adapter/learner/memory/")}
    fresh = flatten(stream.current.config.fitted.initial())
    assert held["adapter/learner/memory/places/images"].any()
    assert_same(
        {name: without[name] for name in memory}, {name: fresh[name.removeprefix("adapter/")] for name in memory}
    )
    assert_same({n: t for n, t in without.items() if n not in memory}, {n: held[n] for n in held if n not in memory})

    restored = begin(models[0], spec, {spec: {"period": 6, "capacity": 8}})
    restore(restored, emptied)
    assert "private inputs left out" in warning_for(restored.current.config, dropped)
    assert serve(restored, 8, 7).logits.isfinite().all()


@pytest.mark.parametrize("spec", SPECS)
def test_in_half_precision_each_number_is_near_and_those_too_small_for_it_are_whole(models, spec):
    stream = begin(models[0], spec, {"seed": 3}, steps=3, waiting=2)
    whole, (told, file) = flatten(stream.current.state.adapter), snapshot(stream, "kept", half=True)

    kept = unpack(file)[1]
    restored = begin(models[0], spec, {"seed": 3})
    restore(restored, file)

    assert (told.exact, told.halved) == (False, True)
    assert "half precision" in warning_for(restored.current.config, told)
    halves = [name for name, tensor in whole.items() if kept[f"adapter/{name}"].dtype == torch.float16]
    numbers = {name: tensor for name, tensor in whole.items() if tensor.dtype == torch.float32 and tensor.abs().max()}
    assert bool(halves) == bool(numbers)
    for name, tensor in flatten(restored.current.state.adapter).items():
        assert tensor.dtype == whole[name].dtype
        if tensor.is_floating_point():
            size = whole[name].abs()
            bound = RELATIVE_ERROR * torch.maximum(size, NEGLIGIBLE * size.max())
            assert bool(((tensor - whole[name]).abs() <= bound).all())
    exact = {name: tensor for name, tensor in whole.items() if name not in halves}
    assert_same({name: flatten(restored.current.state.adapter)[name] for name in exact}, exact)
    assert serve(restored, 4, 20).logits.isfinite().all()


@pytest.mark.parametrize("far", [[1e-9], [1e-5, 1e-7], [1.0, 1e6], [-70000.0]])
def test_a_tensor_that_half_precision_does_not_take_stays_whole(far):
    near = torch.tensor([0.0, -1.3, 1e-9])
    given = {"far": torch.tensor(far), "near": near, "none": torch.empty(0), "count": torch.tensor(7)}

    kept = halved(given)

    assert {name: tensor.dtype for name, tensor in kept.items()} == {
        "far": torch.float32, "near": torch.float16, "none": torch.float16, "count": torch.int64,
    }  # fmt: skip
    assert widened(kept, given)["near"].dtype == torch.float32


def test_taking_a_snapshot_leaves_the_stream_and_learning_on_leaves_the_snapshot(models):
    stream, twin = begin(models[0], steps=2, waiting=1), begin(models[0], steps=2, waiting=1)
    before = stream.current

    _, file = snapshot(stream, "kept")
    again = snapshot(stream, "kept")[1]

    assert stream.current is before
    answers = [serve(some, 6, 7) for some in (stream, twin)]
    assert torch.equal(answers[0].logits, answers[1].logits)
    assert_same(unpack(file)[1], unpack(again)[1])


@pytest.fixture
def taken(models):
    """A stream, and the manifest and tensors of a snapshot of it."""
    stream = begin(models[0], steps=2, waiting=1)
    return stream, *unpack(snapshot(stream, "kept")[1])


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
        pytest.param(lambda t: t | {"adapter/more": torch.zeros(1)}, r"has unexpected \['more'\]", id="stranger"),
        pytest.param(lambda t: {k: v for k, v in t.items() if k != "window"}, "window does not fit", id="no_window"),
        pytest.param(lambda t: t | {"window": t["window"].float()}, "window does not fit", id="window_dtype"),
        pytest.param(lambda t: t | {"window": t["window"][:, :1]}, "window does not fit", id="window_shape"),
        pytest.param(lambda t: t | {"window": torch.tensor(1, dtype=torch.uint8)}, "window does not fit", id="scalar"),
    ],
)
def test_tensors_that_are_no_state_of_the_stream_are_refused(taken, change, said):
    stream, read, tensors = taken
    before = stream.current

    with pytest.raises(UnfitError, match=said):
        state_for("s", stream.current.config, read, change(tensors))

    assert stream.current is before


def test_a_snapshot_of_another_model_is_refused_by_both_names(models, taken):
    _, read, tensors = taken

    with pytest.raises(UnfitError, match=r"the snapshot is of model 'one' \([0-9a-f]{12}\), stream 's' is of 'other'"):
        state_for("s", begin(models[1]).current.config, read, tensors)


@pytest.mark.parametrize("spec", ["batch", "unmix_tns+tent", "batch+tent+lame", "batch+eta"])
def test_a_snapshot_of_another_spec_is_refused_by_both_specs(models, taken, spec):
    _, read, tensors = taken

    with pytest.raises(UnfitError) as caught:
        state_for("s", begin(models[0], spec).current.config, read, tensors)

    assert f"the snapshot is of 'batch+tent', stream 's' runs {spec!r}" in str(caught.value)


def test_a_snapshot_of_another_optimizer_is_refused(models, taken):
    _, read, tensors = taken
    other = begin(models[0], options={"tent": {"optimizer": "sgd"}})

    with pytest.raises(UnfitError, match="does not fit stream 's'"):
        state_for("s", other.current.config, read, tensors)


def test_a_state_that_is_not_finite_is_not_snapshotted(models):
    stream = begin(models[0], steps=1)
    tensors = replaced(flatten(stream.current.state.adapter), lambda weight: weight * torch.nan)
    put(stream, adapter=rebuild(stream.current.state.adapter, tensors))

    with pytest.raises(UnfitError, match="holds NaN or infinity; reset it"):
        snapshot(stream, "spoiled")


def test_a_snapshot_taken_under_other_settings_says_which(models, taken):
    stream, read, _ = taken
    elsewhere = read.model_copy(update={"replay": read.replay.model_copy(update={"threads": 8, "torch": "1.0"})})
    otherwise = begin(models[0], options={"tent": {"lr": 0.5}})

    assert warning_for(stream.current.config, read) == ""
    assert warning_for(stream.current.config, elsewhere).startswith("taken under threads 8 (now 1), torch 1.0 (now ")
    assert "other options" in warning_for(otherwise.current.config, read)
