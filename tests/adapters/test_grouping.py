"""Steps of several streams taken as one: equal to those taken one by one, and each stream's own."""

import pytest
import torch

from adapters import create
from adapters.grouping import step_together, why_not
from adapters.registry import parts
from adapters.state import flatten
from tests import models

SPECS = ["source", "batch", "ema", "alpha", "unmix_tns", "unmix_tns+lame", "unmix_tns+eata", "batch+eata", "source+sar"]
TOLERANCE = 1e-4
PIPELINES = {}


def fitted(spec):
    """A pipeline and its fit; calibration takes longer than the tests."""
    if spec not in PIPELINES:
        adapter = create(spec)
        PIPELINES[spec] = adapter, adapter.prepare(models.calibrated(models.reference_source, adapter))
    return PIPELINES[spec]


def batch(count, seed):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def begun(adapter, prepared, streams, images=4):
    """States of streams that have taken 0, 1, 2, ... steps."""
    states = []
    for stream in range(streams):
        state = adapter.init(prepared)
        for step in range(stream % 3):
            _, state = adapter.step(prepared, state, batch(images, 100 * stream + step))
        states.append(state)
    return states


def assert_close(given, wanted):
    for (mine, after), (alone, expected) in zip(given, wanted, strict=True):
        torch.testing.assert_close(mine.logits, alone.logits, atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(mine.probabilities, alone.probabilities, atol=TOLERANCE, rtol=0)
        assert mine.signals.keys() == alone.signals.keys()
        for name, signal in alone.signals.items():
            torch.testing.assert_close(mine.signals[name], signal, atol=TOLERANCE, rtol=TOLERANCE)
        for name, tensor in flatten(expected).items():
            torch.testing.assert_close(flatten(after)[name], tensor, atol=TOLERANCE, rtol=TOLERANCE)


def one_by_one(adapter, prepared, states, xs):
    return [adapter.step(prepared, state, x) for state, x in zip(states, xs, strict=True)]


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("spec", SPECS)
def test_several_steps_taken_together_equal_those_taken_one_by_one(spec, images):
    adapter, prepared = fitted(spec)
    together = alone = begun(adapter, prepared, 6)

    for step in range(4):
        xs = [batch(images, 10 * step + stream) for stream in range(6)]
        given, wanted = step_together(adapter, prepared, together, xs), one_by_one(adapter, prepared, alone, xs)
        assert_close(given, wanted)
        together, alone = [state for _, state in given], [state for _, state in wanted]


# LAME's kernel width on equal images is the rounding of their distances, so that no two ways of summing agree there.
EQUAL = [(spec, images) for spec in SPECS for images in (1, 3) if images == 1 or "lame" not in spec]


@pytest.mark.parametrize(("spec", "images"), EQUAL)
def test_constant_and_equal_images_are_answered_as_alone(spec, images):
    adapter, prepared = fitted(spec)
    xs = [torch.full((1, 3, 16, 16), 0.5), torch.zeros(1, 3, 16, 16), batch(1, 1)]
    xs = [x.repeat(images, 1, 1, 1) for x in xs]
    states = begun(adapter, prepared, 3)

    assert_close(step_together(adapter, prepared, states, xs), one_by_one(adapter, prepared, states, xs))


@pytest.mark.parametrize("spec", SPECS)
def test_what_one_stream_sends_that_is_not_a_number_reaches_no_other(spec):
    adapter, prepared = fitted(spec)
    xs = [batch(2, seed) for seed in range(4)]
    states = begun(adapter, prepared, 4)
    clean = step_together(adapter, prepared, states, xs)
    xs[2] = torch.full_like(xs[2], torch.nan)

    poisoned = step_together(adapter, prepared, states, xs)

    assert not bool(torch.isfinite(poisoned[2][0].logits).all())
    for index in (0, 1, 3):
        assert torch.equal(poisoned[index][0].probabilities, clean[index][0].probabilities)
        for name, tensor in flatten(clean[index][1]).items():
            assert torch.equal(flatten(poisoned[index][1])[name], tensor)


@pytest.mark.parametrize("spec", ["source", "unmix_tns", "unmix_tns+eata"])
def test_states_that_come_of_one_step_share_no_memory_and_keep_what_does_not_change(spec):
    adapter, prepared = fitted(spec)
    states = begun(adapter, prepared, 3)
    before = [{name: tensor.clone() for name, tensor in flatten(state).items()} for state in states]

    given = step_together(adapter, prepared, states, [batch(2, seed) for seed in range(3)])

    for state, kept, (output, after) in zip(states, before, given, strict=True):
        assert all(torch.equal(kept[name], tensor) for name, tensor in flatten(state).items())
        assert after.seed is state.seed
        for tensor in (output.logits, output.probabilities, *flatten(after).values()):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_every_pipeline_that_branches_says_so():
    hosts = [name for name, part in parts("learner").items() if not part.pure_graph]

    assert hosts
    for name in hosts:
        assert why_not(create(name)) == f"{create(name).spec} branches on data"
    assert why_not(create("auto")) == "auto chooses among pipelines as it runs"
    assert why_not(create("unmix_tns+eata+lame")) == ""
