"""ROID where public code breaks, its switches, and its prior."""

import dataclasses

import pytest
import torch

from adapters import create
from adapters.errors import UnfitModelError
from adapters.functional.prior import smoothed_prior
from adapters.functional.weighting import scaled, weigh
from adapters.state import flatten, is_finite
from tests.models import reference_source


def batch(count=8, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def stepped(x, spec="roid", **options):
    """Return the source's parameters, the answer and what was learned from one batch."""
    adapter = create(spec, roid=options)
    prepared = adapter.prepare(reference_source())
    output, state = adapter.step(prepared, adapter.init(prepared), x)
    return prepared.net.affine, output, state.learner


def test_equal_images_leave_everything_finite():
    _, output, learned = stepped(batch(1).repeat(8, 1, 1, 1))

    assert torch.isfinite(output.probabilities).all()
    assert is_finite(learned)


def test_one_image_is_answered_as_it_is_and_teaches_nothing():
    adapter = create("roid")
    prepared = adapter.prepare(reference_source())
    before = adapter.init(prepared)

    output, after = adapter.step(prepared, before, batch(1))

    learned = flatten(after.learner)
    assert all(torch.equal(tensor, learned[name]) for name, tensor in flatten(before.learner).items())
    assert torch.equal(output.probabilities, output.logits.softmax(1))
    assert int(after.steps) == 1


def test_scores_without_a_range_count_alike_and_no_image_is_left_out():
    weighting = weigh(torch.tensor([[2.0, 0.0]]).repeat(8, 1), torch.full((2,), 0.5), 1 / 3)

    assert weighting.kept.all()
    torch.testing.assert_close(weighting.weight, torch.full((8,), 3.0).exp(), atol=1e-4, rtol=0)
    assert torch.equal(scaled(torch.full((3,), 0.1) + 1e-14), torch.ones(3))


def test_weights_run_from_one_to_e_cubed_and_images_of_less_than_mean_diversity_have_none():
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)) * 3
    mean = torch.full((10,), 0.1)

    weighting = weigh(logits, mean, 1 / 3)

    diversity = 1 - torch.nn.functional.cosine_similarity(mean[None], logits.softmax(1))
    assert torch.equal(weighting.kept, diversity >= diversity.mean())
    assert not weighting.weight[~weighting.kept].any()
    assert 1 <= weighting.weight[weighting.kept].min() <= weighting.weight.max() <= 20.1


def test_without_weighting_every_image_counts_as_one():
    _, output, _ = stepped(batch(), weighting=False)
    _, weighed, _ = stepped(batch())

    assert float(output.signals["selected_ratio"]) == 1.0
    assert 0 < float(weighed.signals["selected_ratio"]) < 1


def test_each_switch_changes_what_is_learned():
    learned = [
        stepped(batch(), optimizer="sgd", **options)[2].learning.params["4.weight"]
        for options in ({}, {"weighting": False}, {"consistency": False}, {"augment": False}, {"temperature": 1.0})
    ]

    assert all(not torch.equal(one, other) for n, one in enumerate(learned) for other in learned[:n])


def test_the_losses_are_divided_by_the_configured_batch_size():
    # SGD's first step is the learning rate times the gradient, and the way back a hundredth of what is left.
    source, _, own = stepped(batch(8), optimizer="sgd", lr=1.0)
    _, _, half = stepped(batch(8), optimizer="sgd", lr=1.0, batch_size=16)

    for name, p in source.items():
        moved, less = own.learning.params[name] - p, half.learning.params[name] - p
        torch.testing.assert_close(less, moved / 2, atol=1e-5, rtol=1e-4)


def test_parameters_go_a_share_of_the_way_back_to_the_source():
    source, _, free = stepped(batch(), source_momentum=1.0)
    _, _, back = stepped(batch(), source_momentum=0.7)

    for name, p in source.items():
        expected = 0.7 * free.learning.params[name] + 0.3 * p
        torch.testing.assert_close(back.learning.params[name], expected, atol=1e-7, rtol=0)


def test_the_augmentation_is_drawn_from_seed_and_step():
    learner = create("roid").learner

    seeds = {int(learner.draw(seed, step, batch().shape)["seed"]) for seed in range(5) for step in range(5)}

    assert len(seeds) == 25


def test_a_model_whose_inputs_are_no_images_is_refused_unless_nothing_is_augmented():
    source = dataclasses.replace(reference_source(), input_shape=(48,))

    with pytest.raises(UnfitModelError, match=r"inputs are \(48,\); `augment=false` works"):
        create("roid").prepare(source)
    create("roid", roid={"augment": False}).prepare(source)


@pytest.mark.parametrize("count", [1, 2, 64])
def test_the_prior_sums_to_one_and_nears_uniform_the_fewer_the_images(count):
    probabilities = torch.tensor([[0.9, 0.1, 0.0]]).repeat(count, 1)

    prior = smoothed_prior(probabilities)

    assert float(prior.sum()) == pytest.approx(1, abs=1e-6)
    assert float(prior.amax()) == pytest.approx((0.9 + max(1 / count, 1 / 3) / 0.9) / (1 + max(1 / count, 1 / 3) / 0.3))


def test_the_prior_favours_what_the_batch_holds_without_changing_the_logits():
    x = batch()
    plain, corrected = stepped(x, "roid+lame")[1], stepped(x)[1]
    adapter = create("batch+roid_prior")
    prepared = adapter.prepare(reference_source())

    alone, _ = adapter.step(prepared, adapter.init(prepared), x)

    assert torch.equal(plain.logits, corrected.logits)
    assert torch.equal(alone.probabilities, corrected.probabilities)
    raw = corrected.logits.softmax(1)
    expected = raw * smoothed_prior(raw)
    torch.testing.assert_close(corrected.probabilities, expected / expected.sum(1, keepdim=True), atol=1e-7, rtol=0)
    most = int(raw.mean(0).argmax())
    assert corrected.probabilities[:, most].mean() > raw[:, most].mean()
