"""Monitors of answers, layers and parameters: definitions on made data, extremes, and what is never remembered."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from adapters import create
from adapters.monitors import accuracy, class_balance, entropy_bins, layer_distance, parameter_distance
from adapters.monitors.accuracy import calibrated
from adapters.monitors.entropy_bins import BINS
from adapters.state import flatten, rebuild
from adapters.values import Moments
from tests.models import reference_source

CLASSES = 5


def answers(count, seed=0, sharpness=3.0, classes=CLASSES):
    return (sharpness * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))).softmax(1)


def certain(*labels, classes=CLASSES):
    return torch.eye(classes)[list(labels)]


def balance(*requests):
    state = class_balance.init(requests[0].shape[1])
    for probabilities in requests:
        state = class_balance.update(state, probabilities)
    return state


def bins(*requests):
    state = entropy_bins.init()
    for probabilities in requests:
        state = entropy_bins.update(state, probabilities)
    return state


def assert_unchanged(after, before):
    assert all(torch.equal(tensor, flatten(before)[name]) for name, tensor in flatten(after).items())


def test_after_one_request_the_shares_are_the_mean_answer_and_the_entropy_is_its_entropy():
    probabilities = answers(40)

    state = balance(probabilities)

    torch.testing.assert_close(state.shares, probabilities.mean(0))
    expected = Categorical(probs=probabilities.mean(0)).entropy()
    torch.testing.assert_close(class_balance.marginal_entropy(state), expected)
    assert float(class_balance.dominant_share(state)) == pytest.approx(float(probabilities.mean(0).max()))


def test_the_shares_weigh_each_request_by_its_images_and_its_age():
    old, new = answers(30, 1), answers(10, 2)

    state = balance(old, new)

    weights = (1 - math.exp(-30 / 256)) * math.exp(-10 / 256), 1 - math.exp(-10 / 256)
    expected = (weights[0] * old.mean(0) + weights[1] * new.mean(0)) / sum(weights)
    torch.testing.assert_close(state.shares, expected, atol=1e-6, rtol=0)
    assert float(state.weight) == pytest.approx(1 - math.exp(-40 / 256), abs=1e-6)


def test_all_classes_and_one_are_the_ends_of_the_marginal_entropy():
    every, one = balance(certain(0, 1, 2, 3, 4)), balance(certain(3, 3, 3))

    assert float(class_balance.marginal_entropy(every)) == pytest.approx(math.log(CLASSES))
    assert float(class_balance.dominant_share(every)) == pytest.approx(1 / CLASSES)
    assert float(class_balance.marginal_entropy(one)) == 0
    assert float(class_balance.dominant_share(one)) == 1


def test_the_distance_from_the_prior_is_the_jensen_shannon_divergence_in_bits():
    prior, state = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1]), balance(answers(64))

    distance = class_balance.prior_distance(state, prior)

    here, there = Categorical(probs=state.shares), Categorical(probs=prior)
    middle = Categorical(probs=(state.shares + prior) / 2)
    expected = (kl_divergence(here, middle) + kl_divergence(there, middle)) / (2 * math.log(2))
    torch.testing.assert_close(distance, expected, atol=1e-6, rtol=1e-5)


def test_the_distance_from_the_prior_is_0_at_home_and_1_where_nothing_is_shared():
    one, prior = balance(certain(0)), certain(4)[0]

    assert float(class_balance.prior_distance(one, prior)) == pytest.approx(1)
    assert float(class_balance.prior_distance(one, one.shares)) == 0
    assert float(class_balance.prior_distance(balance(answers(500)), torch.full((CLASSES,), 0.2))) < 0.05


@pytest.mark.parametrize("seed", range(20))
def test_the_distance_from_any_prior_is_between_0_and_1(seed):
    made = answers(2, seed, sharpness=20.0)

    distance = float(class_balance.prior_distance(balance(made[:1]), made[1]))

    assert 0 <= distance <= 1


def test_each_image_is_counted_in_the_bin_of_its_entropy():
    probabilities = answers(200, sharpness=2.0)

    state = bins(probabilities)

    shares = Categorical(probs=probabilities).entropy() / math.log(CLASSES)
    expected = [int(((shares * BINS).floor().clamp_max(BINS - 1) == number).sum()) for number in range(BINS)]
    assert state.counts.tolist() == expected
    assert float(entropy_bins.shares(state).sum()) == pytest.approx(1)


def test_older_counts_fade_over_a_thousand_images():
    state = bins(certain(*[0] * 100), torch.full((512, CLASSES), 1 / CLASSES))

    assert float(state.counts[-1]) == 512
    assert float(state.counts[0]) == pytest.approx(100 * math.exp(-0.5), rel=1e-5)


def test_before_any_image_there_are_no_shares():
    assert entropy_bins.shares(entropy_bins.init()).tolist() == [0.0] * BINS


EXTREMES = {
    "one image": answers(1),
    "constant images": answers(1).expand(64, CLASSES),
    "certain": certain(*range(CLASSES)),
    "undecided": torch.full((8, CLASSES), 1 / CLASSES),
    "huge logits": torch.tensor([[1e30, -1e30, 0.0, 1e4, -1e4]]).softmax(1),
    "empty": torch.empty(0, CLASSES),
    "double": answers(9).double(),
    "two classes": answers(9, classes=2),
    "one class": torch.ones(4, 1),
}


@pytest.mark.parametrize("probabilities", EXTREMES.values(), ids=EXTREMES)
def test_extreme_answers_are_taken_in_and_stay_finite(probabilities):
    balanced, binned = balance(probabilities), bins(probabilities)

    assert all(bool(torch.isfinite(tensor).all()) for tensor in (*flatten(balanced).values(), binned.counts))
    assert float(balanced.shares.sum()) == pytest.approx(1, abs=1e-5)
    assert float(binned.counts.sum()) == len(probabilities)
    assert 0 <= float(class_balance.marginal_entropy(balanced)) <= math.log(max(probabilities.shape[1], 2)) + 1e-6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_change_nothing_and_the_others_count(value):
    sound, broken = answers(6), torch.full((3, CLASSES), value)
    mixed = torch.cat([broken[:1], sound, broken[1:]])

    torch.testing.assert_close(balance(mixed).shares, balance(sound).shares)
    assert torch.equal(balance(mixed).weight, balance(sound).weight)
    assert_unchanged(bins(mixed), bins(sound))
    assert_unchanged(balance(sound, broken), balance(sound))
    assert_unchanged(bins(sound, broken), bins(sound))
    assert_unchanged(balance(broken), class_balance.init(CLASSES))


def moments(seed, channels=7):
    generator = torch.Generator().manual_seed(seed)
    return Moments(torch.randn(channels, generator=generator), 0.1 + 2 * torch.rand(channels, generator=generator))


def gaussians(made):
    return Normal(made.mean, made.var.sqrt())


def test_the_layer_distance_is_the_symmetric_kl_of_torch_distributions():
    batch, source = moments(1), moments(2)

    distance = layer_distance.between(batch, source, eps=0.0)

    there, back = (kl_divergence(gaussians(p), gaussians(q)) for p, q in ((batch, source), (source, batch)))
    torch.testing.assert_close(distance.kl, (there + back).mean())


def test_the_layer_distance_is_the_wasserstein_distance_of_sorted_samples():
    batch, source = moments(3, 1), moments(4, 1)
    levels = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    one, other = (Normal(made.mean.double(), made.var.double().sqrt()).icdf(levels) for made in (batch, source))

    distance = layer_distance.between(batch, source, eps=0.0)

    expected = (one - other).square().mean().sqrt() / source.var.double().sqrt()
    assert float(distance.wasserstein) == pytest.approx(float(expected), rel=1e-3)


def test_a_shift_by_one_deviation_is_a_wasserstein_distance_of_one_whatever_the_scale():
    for scale in (0.1, 1.0, 10.0):
        source = Moments(torch.zeros(4), torch.full((4,), scale**2))
        shifted = replace(source, mean=torch.full((4,), scale))

        distance = layer_distance.between(shifted, source, eps=0.0)

        assert float(distance.wasserstein) == pytest.approx(1)
        assert float(distance.kl) == pytest.approx(1)


def test_at_home_the_layer_distance_is_0():
    home = moments(5)

    distance = layer_distance.between(home, home)

    assert (float(distance.kl), float(distance.wasserstein)) == (pytest.approx(0, abs=1e-6), 0)


def test_constant_channels_have_a_finite_distance():
    constant = Moments(torch.tensor([0.0, 3.0]), torch.tensor([0.0, -1e-9]))

    for pair in ((constant, moments(6, 2)), (moments(6, 2), constant), (constant, constant)):
        distance = layer_distance.between(*pair)
        assert math.isfinite(float(distance.kl))
        assert math.isfinite(float(distance.wasserstein))


def stepped(spec, steps, **options):
    """Return the states before any batch and after some steps."""
    adapter = create(spec, **options)
    prepared = adapter.prepare(reference_source())
    before = state = adapter.init(prepared)
    for seed in range(steps):
        _, state = adapter.step(
            prepared, state, torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        )
    return before, state


@pytest.mark.parametrize("spec", ["batch+tent", "cotta", "eata", "sar", "rotta", "note"])
def test_before_any_step_the_parameters_are_where_they_began(spec):
    before, _ = stepped(spec, 0)

    learned = parameter_distance.learned(before)

    assert learned
    assert float(parameter_distance.relative(learned, learned)) == 0
    assert float(parameter_distance.fisher_weighted(learned, learned, learned)) == 0


@pytest.mark.parametrize("spec", ["source", "ema", "unmix_tns+lame"])
def test_what_learns_nothing_by_gradient_has_no_parameters_and_no_distance(spec):
    before, after = (parameter_distance.learned(state) for state in stepped(spec, 2))

    assert before == after == {}
    assert float(parameter_distance.relative(after, before)) == 0
    assert float(parameter_distance.fisher_weighted(after, before, {})) == 0


@pytest.mark.parametrize("spec", ["batch+tent", "cotta"])
def test_after_steps_the_distance_is_the_norm_of_the_move_over_the_norm_of_the_start(spec):
    before, after = (parameter_distance.learned(state) for state in stepped(spec, 3))

    distance = parameter_distance.relative(after, before)

    start = torch.cat([tensor.ravel() for tensor in before.values()]).double()
    end = torch.cat([after[name].ravel() for name in before]).double()
    assert float(distance) == pytest.approx(float((end - start).norm() / start.norm()), rel=1e-4)
    assert 0 < float(distance) < 1


def test_of_several_copies_the_student_is_measured():
    _, after = stepped("cotta", 2)

    learned = parameter_distance.learned(after)

    assert all(
        torch.equal(flatten(after)[f"learner/student/params/{name}"], tensor) for name, tensor in learned.items()
    )


def test_the_fisher_weighted_distance_counts_known_parameters_by_their_weight():
    before, after = (parameter_distance.learned(state) for state in stepped("batch+tent", 3))
    known = list(before)[:2]
    fisher = {name: torch.rand_like(before[name]) for name in known} | {"unknown.weight": torch.ones(3)}

    distance = parameter_distance.fisher_weighted(after, before, fisher)

    expected = sum(float((fisher[name] * (after[name] - before[name]) ** 2).sum()) for name in known)
    assert float(distance) == pytest.approx(expected, rel=1e-5)
    assert float(distance) > 0
    assert float(parameter_distance.fisher_weighted(after, before, {"unknown.weight": torch.ones(3)})) == 0


def test_parameters_that_begin_at_zero_have_a_finite_distance():
    zeros = {"w": torch.zeros(3)}

    assert float(parameter_distance.relative(zeros, zeros)) == 0
    assert math.isfinite(float(parameter_distance.relative({"w": torch.full((3,), 1e-6)}, zeros)))


def labelled(count=400, seed=0, sharpness=2.0):
    """Answers and labels that these are right about as often as they say."""
    probabilities = answers(count, seed, sharpness)
    labels = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    return probabilities, labels


def by_difference(probabilities, known):
    return accuracy.by_difference_of_confidences(accuracy.average_confidence(probabilities), known)


@pytest.mark.parametrize("seed", range(5))
def test_every_estimate_equals_the_accuracy_on_what_it_was_learned_from(seed):
    probabilities, labels = labelled(seed=seed)
    true = float((probabilities.argmax(1) == labels).float().mean())

    known = calibrated(probabilities, labels)

    assert float(known.accuracy) == pytest.approx(true)
    assert float(accuracy.thresholded(probabilities, known)) == pytest.approx(true)
    assert float(by_difference(probabilities, known)) == pytest.approx(true)
    assert float(accuracy.average_confidence(probabilities)) == pytest.approx(float(probabilities.amax(1).mean()))


def test_the_estimates_follow_their_definitions_on_other_answers():
    known = calibrated(*labelled())
    others = answers(100, 9, sharpness=1.0)

    sure = others.amax(1)

    assert float(accuracy.thresholded(others, known)) == pytest.approx(float((sure > known.threshold).float().mean()))
    lost = float(known.confidence) - float(sure.mean())
    assert float(by_difference(others, known)) == pytest.approx(float(known.accuracy) - lost)
    assert float(accuracy.thresholded(others, known)) < float(known.accuracy)


@pytest.mark.parametrize(("labels", "estimate"), [((0, 1, 2, 3), 1.0), ((1, 2, 3, 0), 0.0)], ids=["all right", "none"])
def test_answers_all_right_and_all_wrong_are_estimated_so(labels, estimate):
    probabilities = 0.5 * certain(0, 1, 2, 3) + 0.1

    known = calibrated(probabilities, torch.tensor(labels))

    assert float(known.accuracy) == estimate
    assert float(accuracy.thresholded(probabilities, known)) == estimate


def test_a_saturated_model_is_estimated_as_near_its_accuracy_as_its_confidences_allow():
    probabilities, labels = certain(*[0] * 10), torch.tensor([0] * 9 + [1])

    known = calibrated(probabilities, labels)

    assert float(accuracy.thresholded(probabilities, known)) == 1.0  # 0 would be farther from 0.9


def test_estimates_stay_within_0_and_1_on_extremes():
    known = calibrated(*labelled(sharpness=6.0))

    for probabilities in (certain(0), torch.full((1, CLASSES), 0.2), torch.tensor([[1e30, 0, 0, 0, 0]]).softmax(1)):
        for estimate in (accuracy.thresholded, by_difference):
            assert 0 <= float(estimate(probabilities, known)) <= 1


def test_states_survive_as_named_tensors():
    state = balance(answers(8))

    again = rebuild(class_balance.init(CLASSES), flatten(state))

    assert_unchanged(class_balance.update(again, answers(4, 1)), class_balance.update(state, answers(4, 1)))
