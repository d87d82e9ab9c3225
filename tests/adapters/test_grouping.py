"""Steps of several streams taken as one: equal to those taken one by one, and each stream's own."""

import pytest
import torch

from adapters import create
from adapters.joint_step import joint_learner, step_together
from adapters.registry import parts
from adapters.state import flatten
from service.models.kernels.capabilities import capabilities
from tests import models

SPECS = [
    "source", "batch", "ema", "alpha", "unmix_tns", "unmix_tns+lame", "unmix_tns+eata", "source+eta", "unmix_tns+rdumb",
    "batch+eata", "source+sar",
]  # fmt: skip
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


def test_streams_return_to_the_source_each_in_its_own_time():
    adapter = create("unmix_tns+rdumb", rdumb={"reset_every": 3, "e_margin": 1.0})
    prepared = adapter.prepare(models.reference_source())
    together = alone = begun(adapter, prepared, 4)  # after 0, 1, 2 and 0 steps
    returned = 0

    for step in range(4):
        xs = [batch(2, 10 * step + stream) for stream in range(4)]
        given, wanted = step_together(adapter, prepared, together, xs), one_by_one(adapter, prepared, alone, xs)
        assert_close(given, wanted)
        returned += sum(int(state.learner.count) % 3 == 0 for state in alone)
        together, alone = [state for _, state in given], [state for _, state in wanted]

    assert returned > 4


def test_only_streams_with_a_selected_image_learn():
    """The second pass is over these streams alone, and moves neither parameters nor moments of the others."""
    adapter = create("unmix_tns+eta", eta={"e_margin": 1.0, "d_margin": 1.0})
    prepared = adapter.prepare(models.reference_source())
    states = begun(adapter, prepared, 3)
    uncertain = torch.full((1, 3, 16, 16), torch.nan)  # of which no entropy is below the margin

    given = step_together(adapter, prepared, states, [batch(1, 0), uncertain, batch(1, 2)])

    selected = [float(output.signals["selected_ratio"]) for output, _ in given]
    assert selected == [1.0, 0.0, 1.0]
    moved = [int(after.learner.learning.optimizer.count - state.learner.learning.optimizer.count)
             for state, (_, after) in zip(states, given, strict=True)]  # fmt: skip
    assert moved == [1, 0, 1]


def test_what_streams_learn_apart_in_one_pass_are_parameters_of_batch_norm_layers():
    told = {}
    for spec in ("source", "source+eta", "batch+eta", "batch+tent"):
        for name, source in {"reference": models.reference_source, "vit": models.vit_source}.items():
            if name == "reference" or "batch" not in spec:
                adapter = create(spec)
                told[spec, name] = joint_learner(adapter, adapter.prepare(source())) is not None
    assert told == {
        ("source", "reference"): True, ("source", "vit"): True, ("source+eta", "reference"): True,
        ("source+eta", "vit"): False, ("batch+eta", "reference"): False, ("batch+tent", "reference"): False,
    }  # fmt: skip


def test_every_pipeline_that_branches_says_so():
    hosts = [name for name, part in parts("learner").items() if not part.pure_graph]

    assert hosts
    _, prepared = fitted("batch")
    for name in hosts:
        assert capabilities(create(name), prepared).joint == f"{create(name).spec} branches on data"
    auto = create("auto")
    can = capabilities(auto, auto.prepare(models.reference_source()))
    assert {can.whole, can.graph, can.native, can.joint} == {"auto chooses among pipelines as it runs"}
    assert capabilities(*fitted("unmix_tns+eata+lame")).joint == ""
