"""Source artefacts: which of them a pipeline gets, and what a learner does without its own."""

import dataclasses

import pytest
import torch

from adapters import SourceImages, create
from tests.models import reference_source


def images(count=64):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return SourceImages(pixels, torch.arange(count) % 10)


def holding(**artefacts):
    return dataclasses.replace(reference_source(), artefacts={name: torch.tensor(x) for name, x in artefacts.items()})


def test_an_artefact_made_under_the_normalizer_goes_before_others_and_the_usual_batch_before_other_sizes():
    names = {"cotta.threshold": 1.0, "cotta@batch@8.threshold": 2.0, "cotta@batch@48.threshold": 3.0}
    source = holding(**names, **{"cotta@batch@200.threshold": 4.0, "cotta@ema@64.threshold": 5.0})

    assert float(source.fitted_to("batch").artefacts["cotta.threshold"]) == 3.0
    assert float(source.fitted_to("ema").artefacts["cotta.threshold"]) == 5.0
    assert float(source.fitted_to("unmix_tns").artefacts["cotta.threshold"]) == 1.0


def test_an_artefact_made_under_another_normalizer_alone_is_not_taken():
    assert holding(**{"fisher@ema@64.x": 1.0}).fitted_to("batch").artefacts == {}


def test_eata_without_fisher_information_says_so_and_returns_as_rdumb_does():
    adapter = create("eata")
    prepared = adapter.prepare(reference_source())
    state = adapter.init(prepared)
    due = dataclasses.replace(state.learner, count=torch.tensor(1000))
    moved = dataclasses.replace(due.filtered, mean_probabilities=torch.full((10,), 0.1), seen=torch.tensor(True))
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    fresh = adapter.step(prepared, state, x)[1].learner.filtered
    returned = adapter.step(prepared, dataclasses.replace(state, learner=dataclasses.replace(due, filtered=moved)), x)

    assert "Fisher" in prepared.degraded
    assert torch.equal(returned[1].learner.filtered.mean_probabilities, fresh.mean_probabilities)


def test_the_threshold_of_cotta_is_the_low_quantile_of_source_confidence():
    told = []
    made = create("source+cotta").calibrate(reference_source(), images(), 16, told.append)

    pixels = images().images.float() / 255
    with torch.no_grad():
        confidence = reference_source().network.eval()(pixels).softmax(1).amax(1)
    assert float(made["threshold"]) == pytest.approx(float(confidence.quantile(0.05)) - 0.05, abs=1e-5)
    assert sum(told) == pytest.approx(1)


def test_a_calibrated_threshold_decides_when_nothing_else_is_said():
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for threshold, augmented in ((0.0, 0.0), (1.0, 1.0)):
        adapter = create("cotta", cotta={"augmentations": 1})
        prepared = adapter.prepare(holding(**{"cotta.threshold": threshold}))
        assert prepared.degraded == ""
        output, _ = adapter.step(prepared, adapter.init(prepared), x)
        assert float(output.signals["augmented_ratio"]) == augmented
    assert "not calibrated" in create("cotta").prepare(reference_source()).degraded


def test_artefacts_say_what_they_were_made_from():
    made = create("eata").calibrate(reference_source(), images(50), 16, lambda _: None)

    assert (int(made["batch"]), int(made["images"])) == (16, 48)
