"""ROID and RMT, whole and in pieces, are the public ones; augmentation is off, since it is drawn at random there."""

import dataclasses

import numpy as np
import pytest
import torch

from adapters import create
from adapters.functional.contrastive import contrastive_loss, nearest
from adapters.functional.entropy import entropy_of_logits
from adapters.functional.losses import soft_likelihood_ratio, symmetric_cross_entropy
from adapters.functional.prior import smoothed_prior
from adapters.functional.weighting import weigh
from tests.models import REFERENCE, reference_source
from tests.reference.test_reference import source_images, stream

PURE, WEIGHTS = 1e-5, 1e-4
RELATIVE = 1e-6
"""Values and gradients of the pure losses reach 40, where float32 rounds in steps of 4e-6."""


def close(ours, reference, tolerance, relative=0.0):
    torch.testing.assert_close(ours, torch.from_numpy(reference), atol=tolerance, rtol=relative)


def pure(name):
    return torch.from_numpy(np.load(REFERENCE / "pure_losses.npz")[name])


LOSSES = [
    pytest.param(symmetric_cross_entropy, ("logits_a", "logits_b"), "sce", ("sce_grad_a", "sce_grad_b"), id="sce"),
    pytest.param(soft_likelihood_ratio, ("logits_a",), "slr", ("slr_grad_a",), id="slr"),
    pytest.param(entropy_of_logits, ("logits_a",), "entropy", ("entropy_grad_a",), id="entropy"),
]


@pytest.mark.parametrize(("loss", "inputs", "values", "gradients"), LOSSES)
def test_a_loss_and_its_gradient_are_the_public_ones(loss, inputs, values, gradients):
    given = [pure(name).requires_grad_() for name in inputs]

    result = loss(*given)
    made = torch.autograd.grad(result.sum(), given)

    torch.testing.assert_close(result.detach(), pure(values), atol=PURE, rtol=RELATIVE)
    for gradient, name in zip(made, gradients, strict=True):
        torch.testing.assert_close(gradient, pure(name), atol=PURE, rtol=RELATIVE)


def test_the_contrastive_loss_and_its_gradients_are_the_public_ones():
    names = [f"{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    projector = {name: pure(f"projector/{name}").requires_grad_() for name in names}
    features, augmented = pure("features").requires_grad_(), pure("features_aug").requires_grad_()
    prototypes = pure("protos")

    chosen = nearest(prototypes, torch.ones(len(prototypes), dtype=torch.bool), features)
    loss = contrastive_loss(prototypes[chosen], features, augmented, projector, 0.1)
    made = torch.autograd.grad(loss, [features, augmented, *projector.values()])

    assert torch.equal(chosen, pure("nearest"))
    torch.testing.assert_close(loss.detach(), pure("contrastive_loss"), atol=PURE, rtol=RELATIVE)
    expected = ["contrastive_grad_features", "contrastive_grad_features_aug", *(f"projector_grad/{n}" for n in names)]
    for gradient, name in zip(made, expected, strict=True):
        torch.testing.assert_close(gradient, pure(name), atol=PURE, rtol=RELATIVE)


@pytest.mark.parametrize("which", ["a", "b"])
def test_the_smoothed_prior_is_the_public_one(which):
    probabilities = pure(f"logits_{which}").softmax(1)

    torch.testing.assert_close(probabilities.mean(0), pure(f"prior_{which}"), atol=PURE, rtol=0)
    torch.testing.assert_close(smoothed_prior(probabilities), pure(f"prior_smoothed_{which}"), atol=PURE, rtol=0)


def test_roids_weights_and_loss_are_the_public_ones():
    logits = pure("roid_logits")

    weighting = weigh(logits, torch.full((10,), 0.1), 1 / 3)
    loss = (weighting.weight * soft_likelihood_ratio(logits)).sum() / len(logits)

    torch.testing.assert_close(weighting.weight, pure("roid_weights"), atol=WEIGHTS, rtol=0)
    torch.testing.assert_close(weighting.mean_probabilities, pure("roid_probs_ema_after"), atol=PURE, rtol=0)
    torch.testing.assert_close(loss, pure("roid_loss_no_consistency"), atol=PURE, rtol=RELATIVE)


def test_roid_is_the_public_one_where_nothing_is_augmented():
    reference = np.load(REFERENCE / "roid_identity.npz")
    adapter = create("roid", roid={"augment": False, "batch_size": 32}, roid_prior={"prior_on": "logits"})
    prepared = adapter.prepare(reference_source())
    state, answers, kept, means = adapter.init(prepared), [], [], []

    for number, x in enumerate(stream(32)):
        output, state = adapter.step(prepared, state, x)
        # Public code answers with the logits times the prior; ours are the network's, and the prior is the adjuster's.
        answers.append(output.logits * smoothed_prior(output.logits.softmax(1)))
        torch.testing.assert_close(output.probabilities, answers[-1].softmax(1), atol=1e-6, rtol=0)
        kept.append(round(float(output.signals["selected_ratio"]) * len(x)))
        means.append(state.learner.mean_probabilities)
        if number == 0:
            close(output.logits, reference["batch0/logits_before_prior"], 1e-4)

    assert kept == reference["kept"].tolist()
    close(torch.cat(answers), reference["outputs"], 1e-4)
    close(torch.stack(means), reference["class_probs_ema"], 1e-5)
    for name, parameter in state.learner.learning.params.items():
        close(parameter, reference[f"final/{name}"], 1e-5)


RMT = [
    pytest.param("rmt_sourcefree", {"warm_up": 0, "lambda_source": 0.0}, id="sourcefree"),
    pytest.param("rmt_full", {}, id="full"),
]


def rmt_as_public(reference, options):
    """The adapter, the artefact that it makes of the 512 source images in batches of 32, and the model with it.

    The projector, which is drawn at random, is the reference's: the warm-up does not touch it.
    """
    adapter = create("rmt", rmt={"augment": False, **options})
    made = dict(adapter.calibrate(reference_source(), source_images(), 32, lambda _: None))
    for key in (key for key in reference.files if key.startswith("projector_init/")):
        name = f"projector.{key.removeprefix('projector_init/')}"
        assert made[name].shape == reference[key].shape
        made[name] = torch.from_numpy(reference[key])
    artefacts = {f"rmt.{name}": tensor for name, tensor in made.items()}
    return adapter, made, dataclasses.replace(reference_source(), artefacts=artefacts)


@pytest.mark.parametrize(("file", "options"), RMT)
def test_rmt_is_the_public_one_where_nothing_is_augmented(file, options):
    reference = np.load(REFERENCE / f"{file}.npz")
    adapter, made, source = rmt_as_public(reference, options)
    prepared = adapter.prepare(source)
    state, answers, losses = adapter.init(prepared), [], []

    for x in stream(32):
        output, state = adapter.step(prepared, state, x)
        answers.append(output.logits)
        losses.append(output.signals["contrastive_loss"])

    close(made["prototypes"], reference["prototypes"], 1e-5)
    close(torch.cat(answers), reference["outputs"], 1e-3)
    close(torch.stack(losses).double(), reference["loss_contrastive"], 1e-4)
    ends = {"final_student": state.learner.student.params, "final_teacher": state.learner.teacher}
    for prefix, learned in {**ends, "projector_final": state.learner.projector.params}.items():
        assert len(learned) == sum(key.startswith(f"{prefix}/") for key in reference.files)
        for name, parameter in learned.items():
            close(parameter, reference[f"{prefix}/{name}"], 1e-4)


def test_the_warm_up_of_rmt_is_the_public_one():
    reference = np.load(REFERENCE / "rmt_full.npz")
    _, made, _ = rmt_as_public(reference, {})

    for key in (key for key in reference.files if key.startswith("after_warmup_")):
        kind, _, name = key.removeprefix("after_warmup_").partition("/")
        close(made[f"{kind}.{name}"], reference[key], 1e-4)
