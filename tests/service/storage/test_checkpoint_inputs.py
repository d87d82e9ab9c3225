"""Images of streams on the disk: kept so that a restart is exact, or left out where that is set."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from service.storage.snapshots.format import unpack
from service.streams.disk_spill import Spill
from service.streams.good_states import GoodState, GoodStates
from tests.applications import application
from tests.bundles import torch_bundle
from tests.serving import images


@dataclass(frozen=True)
class Made:
    """A state of one tensor."""

    memory: Tensor


HOLDS_IMAGES = {
    "rotta": {"adapter": "rotta"},
    "note": {"adapter": "note"},
    "window": {"adapter": "batch+tent", "adapt_batch_size": 16},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


def stored(tmp_path):
    """Return the checkpoints' files."""
    return [file.read_bytes() for file in (tmp_path / "data" / "checkpoints").iterdir()]


def as_bytes(x):
    return [np.round(255 * image).astype(np.uint8).tobytes() for image in x]


def resumed(api):
    events = api("GET", "/v1/events?limit=1000").json()["items"]
    return [event["reason"] for event in events if event["kind"] == "resumed"]


@pytest.mark.parametrize("durability", ["periodic", "sync"])
@pytest.mark.parametrize("settings", HOLDS_IMAGES.values(), ids=HOLDS_IMAGES)
@pytest.mark.parametrize("inputs", ["keep", "drop"])
def test_no_image_is_on_the_disk_where_inputs_are_dropped_and_a_restart_says_that_it_is_not_exact(
    bundle, tmp_path, inputs, settings, durability
):
    x = images(4)
    with application(tmp_path, bundle, checkpoint_inputs=inputs) as api:
        api.create(id="s", durability=durability, **settings)
        api.infer(x, "s")
        before = api.stream("s")
    (file,) = stored(tmp_path)[-1:]
    with application(tmp_path, bundle, checkpoint_inputs=inputs) as api:
        api.infer(images(4, 1), "s")
        (said,) = resumed(api)

    manifest, _ = unpack(file)
    assert any(image in file for image in as_bytes(x)) == (inputs == "keep")
    assert (manifest.contains_inputs, manifest.exact) == ((True, True) if inputs == "keep" else (False, False))
    assert manifest.generation == before["generation"]
    assert ("(exact: false)" in said) == (inputs == "drop")


def test_a_stream_without_images_is_kept_exactly_where_inputs_are_dropped(bundle, tmp_path):
    with application(tmp_path, bundle, checkpoint_inputs="drop") as api:
        api.create(id="s", adapter="batch+tent", durability="sync")
        api.infer(images(4), "s")
    (file,) = stored(tmp_path)[-1:]
    with application(tmp_path, bundle, checkpoint_inputs="drop") as api:
        api.infer(images(4, 1), "s")
        (said,) = resumed(api)

    assert unpack(file)[0].exact
    assert "exact" not in said


@pytest.mark.parametrize("drop", [False, True])
def test_a_good_state_that_holds_images_is_written_only_where_inputs_are_kept(tmp_path, drop):
    ring = GoodStates(0, Spill(tmp_path / "spilled", drop_inputs=drop))
    for steps in (1, 2):
        ring = ring.with_newest(GoodState(Made(torch.rand(3)), steps, steps, 0.9, holds_inputs=True))

    assert bool(list((tmp_path / "spilled").iterdir())) != drop
