"""Every part answers as independent public implementations do: outputs within 1e-4, learned parameters within 1e-5."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from adapters import Adapter, AdapterState, Prepared, SourceImages, create
from adapters.state import flatten, unflatten
from tests.models import REFERENCE, reference_source

OUTPUTS, PARAMETERS = 1e-4, 1e-5
CASES = [
    pytest.param("source", "source", {}, 32, id="source"),
    pytest.param("bn_stats", "batch", {}, 32, id="batch"),
    pytest.param("alpha_bn", "alpha", {}, 32, id="alpha"),
    pytest.param("ema_bn", "ema", {}, 32, id="ema"),
    pytest.param("tent", "tent", {}, 32, id="tent"),
    pytest.param("eta", "eta", {"eta": {"d_margin": 0.4}}, 32, id="eta"),
    pytest.param("rdumb", "rdumb", {"rdumb": {"d_margin": 0.4, "reset_every": 3}}, 32, id="rdumb"),
    pytest.param("eata", "eata", {"eata": {"d_margin": 0.4, "fisher_alpha": 2e5}}, 32, id="eata"),
    pytest.param("sar", "sar", {}, 32, id="sar"),
    pytest.param(
        "sar_reset", "sar", {"sar": {"lr": 0.02, "recovery": 0.306, "keep_momentum": True}}, 32, id="sar_recovers"
    ),
    pytest.param("lame_rbf", "lame", {}, 32, id="lame_rbf"),
    pytest.param("lame_knn", "lame", {"lame": {"kernel": "knn"}}, 32, id="lame_knn"),
    pytest.param("unmix_tns", "unmix_tns", {}, 32, id="unmix_tns"),
    pytest.param("unmix_tns_b8", "unmix_tns", {}, 8, id="unmix_tns_b8"),
    pytest.param("tent_unmix_tns", "unmix_tns+tent", {"tent": {"lr": 1e-3}}, 32, id="unmix_tns+tent"),
]


def stream(batch, images=256):
    """The stream's batches; beyond its end it begins again."""
    pixels = np.load(REFERENCE / "stream.npz")["x"].reshape(-1, 3, 16, 16)
    return (torch.from_numpy(np.concatenate([pixels, pixels])[:images]).float() / 255).split(batch)


def source_images():
    """The 512 labelled source images."""
    stored = np.load(REFERENCE / "stream.npz")
    return SourceImages(torch.from_numpy(stored["source_x"]), torch.from_numpy(stored["source_y"]).long())


def source_with_fisher():
    """The model with the Fisher diagonal of the 512 source images, in batches of 32, as we compute it."""
    made = create("eata").calibrate(reference_source(), source_images(), 32, lambda _: None)
    return dataclasses.replace(reference_source(), artefacts={f"fisher.{name}": f for name, f in made.items()})


def started_from(adapter: Adapter, prepared: Prepared, reference) -> AdapterState:
    """The fresh state, with the reference's random components in the place of ours."""
    state = adapter.init(prepared)
    tensors = flatten(state)
    kinds = {"running_means_mat": "means", "running_vars_mat": "vars"}
    for key in (key for key in reference.files if key.startswith("init/")):
        layer, kind = key.split(".")[-2:]
        if kind in kinds:
            tensors[f"norm/student/{layer}/{kinds[kind]}"] = torch.from_numpy(reference[key])
    return unflatten(state, tensors)


@pytest.mark.parametrize(("file", "spec", "options", "batch"), CASES)
def test_a_pipeline_answers_as_the_public_implementation(file, spec, options, batch):
    reference = np.load(REFERENCE / f"{file}.npz")
    adapter = create(spec, **options)
    prepared = adapter.prepare(source_with_fisher() if adapter.spec.learner == "eata" else reference_source())
    state = started_from(adapter, prepared, reference)
    answers, selected = [], []

    for x in stream(batch, len(reference["outputs"])):
        output, state = adapter.step(prepared, state, x)
        answers.append(output.probabilities if adapter.spec.output == "lame" else output.logits)
        selected.append(round(float(output.signals.get("selected_ratio", 0)) * len(x)))

    expected = torch.from_numpy(reference["outputs"])
    torch.testing.assert_close(torch.cat(answers), expected, atol=OUTPUTS, rtol=0)
    learned = {name.split("params/")[-1]: tensor for name, tensor in flatten(state).items() if "params/" in name}
    finals = [key for key in reference.files if key.startswith("final/")]
    for key in finals:
        expected = torch.from_numpy(reference[key])
        torch.testing.assert_close(learned[key.removeprefix("final/")], expected, atol=PARAMETERS, rtol=0)
    assert len(finals) == len(learned)
    per_batch = json.loads(str(reference["meta"])).get("selected_per_batch")
    assert not per_batch or selected == per_batch


def test_the_fisher_diagonal_is_the_public_one():
    reference = np.load(REFERENCE / "eata.npz")
    ours = source_with_fisher().artefacts
    for key in (key for key in reference.files if key.startswith("fisher/")):
        expected = torch.from_numpy(reference[key])
        torch.testing.assert_close(ours[f"fisher.{key.removeprefix('fisher/')}"], expected, rtol=1e-4, atol=1e-12)


def test_sar_recovers_after_the_batches_where_the_public_code_does():
    reference = np.load(REFERENCE / "sar_reset.npz")
    adapter = create("sar", sar={"lr": 0.02, "recovery": 0.306, "keep_momentum": True})
    prepared = adapter.prepare(reference_source())
    state, means = adapter.init(prepared), []

    for x in stream(32, 448):
        _, state = adapter.step(prepared, state, x)
        means.append(float(state.learner.mean_loss) if state.learner.seen else np.nan)

    np.testing.assert_allclose(means, reference["ema_after"], atol=1e-5)
    assert np.flatnonzero(np.isnan(means)).tolist() == reference["reset_after_batch"].tolist()


def test_cotta_without_chance_is_the_public_one():
    reference = np.load(REFERENCE / "cotta_core.npz")
    descent = {"optimizer": "sgd", "lr": 0.01, "nesterov": True}
    adapter = create("cotta", cotta={**descent, "teacher_momentum": 0.9, "restore": 0.0, "threshold": 0.0})
    prepared = adapter.prepare(reference_source())
    tensors = flatten(adapter.init(prepared))
    for key in (key for key in reference.files if key.startswith("student_init/")):
        tensors[f"learner/student/params/{key.removeprefix('student_init/')}"] = torch.from_numpy(reference[key])
    state, answers = unflatten(adapter.init(prepared), tensors), []

    for x in stream(32):
        output, state = adapter.step(prepared, state, x)
        answers.append(output.logits)

    close = {"atol": OUTPUTS, "rtol": 0}
    torch.testing.assert_close(torch.cat(answers), torch.from_numpy(reference["outputs"]), **close)
    for prefix, learned in (("final", state.learner.student.params), ("final_teacher", state.learner.teacher)):
        for name, parameter in learned.items():
            expected = torch.from_numpy(reference[f"{prefix}/{name}"])
            torch.testing.assert_close(parameter, expected, atol=PARAMETERS, rtol=0)


def test_alpha_of_each_image_equals_alpha_of_the_batch_at_one_image_and_differs_beyond():
    x = stream(8)[0]
    batch, image = create("alpha"), create("alpha", alpha={"of": "image"})
    of_batch, of_image = batch.prepare(reference_source()), image.prepare(reference_source())

    def logits(adapter, prepared, images):
        return adapter.step(prepared, adapter.init(prepared), images)[0].logits

    torch.testing.assert_close(logits(batch, of_batch, x[:1]), logits(image, of_image, x[:1]), atol=1e-5, rtol=0)
    together = logits(image, of_image, x)
    alone = torch.cat([logits(image, of_image, one) for one in x.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (logits(batch, of_batch, x) - together).abs().max() > 0.1
