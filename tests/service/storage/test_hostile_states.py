"""Snapshots whose checksum is right and whose values are not: refused, or served like any other."""

import time
from dataclasses import replace

import pytest
import torch

from adapters.state import flatten
from service.errors import UnfitError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.storage.snapshots.format import pack, unpack
from service.storage.snapshots.stream_files import ADAPTER, MONITORS, state_for
from service.streams import engine
from service.streams.pending_images import MOST_WAITING
from tests import streams
from tests.bundles import FACTORY, torch_bundle
from tests.serving import images
from tests.streams import snapshot

SMALL = {"capacity": 8, "period": 8}
SPECS = {
    "batch+tent": {},
    "unmix_tns+eata+lame": {},
    "rotta": {"rotta": SMALL},
    "note": {"note": SMALL},
    "auto": {},
}
INTEGERS = (-1, 9, 2**63 - 1)
NUMBERS = (-0.5, -1e30, 1e30)
SLOWEST = 5.0
"""Seconds in which a request is answered on any machine that is not stuck."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return host(read_bundle(torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")), (FACTORY,), 1)


def stream_of(model, spec):
    return streams.stream_of(model, spec, SPECS[spec])


def serve(stream, seed):
    return streams.serve(stream, torch.from_numpy(images(4, seed)), every=2)


def restored(model, spec, manifest, tensors):
    """Restore tensors as the control plane does, and return the stream."""
    stream = stream_of(model, spec)
    state = state_for("s", stream.current.config, *unpack(pack(manifest, tensors)))
    engine.check_serves(stream.current, state)
    stream.current = engine.restore(stream.current, state)
    return stream


def harmful(tensors, *, monitors):
    """Yield tensors of a snapshot with a value changed to one that it should not have: of monitors, or of all else."""
    for name, tensor in tensors.items():
        if tensor.dtype in (torch.uint8, torch.bool) or not tensor.numel():
            continue
        if name.startswith(MONITORS) != monitors or (tensor.is_floating_point() and not monitors):
            continue  # what is learned may be any number; guards watch over the answers
        for value in NUMBERS if tensor.is_floating_point() else INTEGERS:
            changed = tensor.clone()
            changed.view(-1)[-1] = value
            yield f"{name} = {value}", tensors | {name: changed}


@pytest.mark.parametrize(
    ("spec", "monitors", "least"), [("batch+tent", True, 30), *((spec, False, 3) for spec in SPECS)]
)
def test_a_snapshot_with_any_value_is_refused_or_serves(model, spec, monitors, least):
    stream = stream_of(model, spec)
    for seed in range(6):
        serve(stream, seed)
    manifest, tensors = unpack(snapshot(stream)[1])
    refused = 0
    for change, other in harmful(tensors, monitors=monitors):
        try:
            hostile = restored(model, spec, manifest, other)
        except UnfitError:
            refused += 1
            continue
        began = time.monotonic()
        try:
            for seed in range(2):
                serve(hostile, seed)
        except Exception as error:
            raise AssertionError(f"{change}: {error!r}") from error
        assert time.monotonic() - began < SLOWEST, change
    assert refused >= least
    assert serve(restored(model, spec, manifest, tensors), 7).action == serve(stream, 7).action


@pytest.mark.parametrize(
    ("spec", "name", "value", "said"),
    [
        ("batch+tent", f"{MONITORS}detectors/entropy/width", -1, "width holds -1, expected 0 to"),
        ("batch+tent", f"{MONITORS}detectors/entropy/width", 50, "the window holds 6 values, but its width is 50"),
        ("batch+tent", f"{MONITORS}recent", 1e30, "recent holds 1e[+]30, expected 0 to"),
        ("batch+tent", f"{MONITORS}pause", 2**62, "pause holds"),
        ("batch+tent", f"{ADAPTER}steps", -1, "steps holds -1"),
        ("rotta", f"{ADAPTER}learner/memory/places/arrived", 1, "the memory holds an image with arrival"),
        ("note", f"{ADAPTER}learner/memory/places/classes", -2, "classes holds -2"),
        ("auto", f"{ADAPTER}chosen", 99, "situation 99 is chosen, but there are only 6"),
    ],
)
def test_a_value_that_no_stream_can_have_reached_is_named(model, spec, name, value, said):
    stream = stream_of(model, spec)
    for seed in range(6):
        serve(stream, seed)
    manifest, tensors = unpack(snapshot(stream)[1])
    changed = tensors[name].clone()
    changed.view(-1)[0] = value

    with pytest.raises(UnfitError, match=said):
        state_for("s", stream.current.config, manifest, tensors | {name: changed})


def test_a_window_has_a_bound(model):
    stream = stream_of(model, "batch+tent")
    manifest, tensors = unpack(snapshot(stream)[1])
    waiting = torch.zeros(MOST_WAITING + 1, 3, 16, 16, dtype=torch.uint8)

    with pytest.raises(UnfitError, match=f"window holds {MOST_WAITING + 1} images, expected at most {MOST_WAITING}"):
        state_for("s", stream.current.config, manifest, tensors | {"window": waiting})


@pytest.mark.parametrize(
    "changes",
    [{"generation": 2**63}, {"steps": 10**30}, {"created": 1e300}, {"stream": "s" * 200}, {"adapt_batch_size": 10**9}],
)
def test_a_manifest_has_bounds(model, changes):
    manifest, tensors = unpack(snapshot(stream_of(model, "batch+tent"))[1])

    with pytest.raises(UnfitError, match=f"manifest is wrong: {next(iter(changes))}"):
        unpack(pack(manifest.model_copy(update=changes), tensors))


def test_a_trial_of_a_state_leaves_the_stream_as_it_is(model):
    stream = stream_of(model, "batch+tent")
    serve(stream, 0)
    before = {name: tensor.clone() for name, tensor in flatten(stream.current.state.adapter).items()}
    value = stream.current

    engine.check_serves(value, replace(value.state, adapter=value.config.initial().adapter))

    assert stream.current is value
    assert all(torch.equal(before[name], tensor) for name, tensor in flatten(stream.current.state.adapter).items())
