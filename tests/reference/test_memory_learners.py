"""RoTTA, NOTE and their memories are the public ones: outputs within 1e-4, parameters within 1e-5, memories exactly."""

import json

import numpy as np
import pytest
import torch

from adapters import create
from adapters.functional import category_memory, places, reservoir
from adapters.functional.entropy import entropy_of_logits
from adapters.state import flatten, unflatten
from tests.models import REFERENCE, reference_source
from tests.reference.test_reference import OUTPUTS, PARAMETERS, stream

MEMORIES = np.load(REFERENCE / "memories.npz")
SCENARIOS = json.loads(str(MEMORIES["meta"]))["scenarios"]
every_scenario = pytest.mark.parametrize("scenario", SCENARIOS)
NO_IMAGE = torch.zeros(1, 1, dtype=torch.uint8)
WEIGHTS = STATISTICS = 1e-6
LOSSES = 1e-6


def close(ours, reference, tolerance):
    torch.testing.assert_close(ours, torch.from_numpy(reference), atol=tolerance, rtol=0)


def recorded_draws(rows, count):
    """Recorded draws (number, kind, n, value) as uniform numbers (count, 3) that lead to them; NaN for what was not."""
    uniform = torch.full((count, reservoir.DRAWS), torch.nan, dtype=torch.float64)
    for number, kind, n, value in rows.tolist():
        uniform[int(number), int(kind)] = value if kind == 2 else (value + 0.5) / n
    return uniform


def ids(memory):
    return [entry.arrival for entry in places.entries(memory.places)]


def told(memory, insert, count):
    """The memory after every insertion, and per insertion whether the image was accepted and who went (-1: nobody)."""
    memories, accepted, evicted = [memory], [], []
    for number in range(count):
        memories.append(insert(memories[-1], number))
        before, after = set(ids(memories[-2])), set(ids(memories[-1]))
        accepted.append(number in after)
        evicted.append(next(iter(before - after), -1))
    return memories, accepted, evicted


@every_scenario
def test_the_category_memory_keeps_exactly_what_the_public_one_keeps(scenario):
    settings = SCENARIOS[scenario]
    labels, entropies = (torch.from_numpy(MEMORIES[f"{scenario}/{name}"]) for name in ("label", "entropy"))
    scoring = category_memory.Scoring(settings["classes"])

    def insert(memory, number):
        one = slice(number, number + 1)
        return category_memory.insert(memory, NO_IMAGE, labels[one], entropies[one].float(), scoring)

    fresh = category_memory.empty(settings["capacity"], (1,), torch.float32)
    memories, accepted, evicted = told(fresh, insert, settings["insertions"])

    assert accepted == MEMORIES[f"{scenario}/cstu_accepted"].tolist()
    assert evicted == MEMORIES[f"{scenario}/cstu_evicted"].tolist()
    for memory, when in ((memories[64], "after64"), (memories[-1], "final")):
        known = {name: MEMORIES[f"{scenario}/cstu_{when}_{name}"] for name in ("id", "class", "age", "weight")}
        assert ids(memory) == known["id"].tolist()
        assert [entry.label for entry in places.entries(memory.places)] == known["class"].tolist()
        assert category_memory.ages(memory).tolist() == known["age"].tolist()
        close(category_memory.timeliness(memory), known["weight"], WEIGHTS)


@every_scenario
def test_the_reservoir_keeps_exactly_what_the_public_one_keeps_by_the_same_draws(scenario):
    settings = SCENARIOS[scenario]
    labels = torch.from_numpy(MEMORIES[f"{scenario}/label"])
    draws = recorded_draws(MEMORIES[f"{scenario}/pbrs_draws"], settings["insertions"])

    def insert(memory, number):
        one = slice(number, number + 1)
        return reservoir.insert(memory, NO_IMAGE, labels[one], draws[one])

    fresh = reservoir.empty(settings["capacity"], (1,), settings["classes"])
    memories, accepted, evicted = told(fresh, insert, settings["insertions"])

    assert accepted == MEMORIES[f"{scenario}/pbrs_accepted"].tolist()
    assert evicted == MEMORIES[f"{scenario}/pbrs_evicted"].tolist()
    assert ids(memories[-1]) == MEMORIES[f"{scenario}/pbrs_final_id"].tolist()
    found = [entry.label for entry in places.entries(memories[-1].places)]
    assert found == MEMORIES[f"{scenario}/pbrs_final_class"].tolist()
    assert memories[-1].counts.tolist() == MEMORIES[f"{scenario}/pbrs_counter"].tolist()


def run(adapter, prepared, state, noise=None):
    """The logits of the whole stream, the losses of the updates, and the state after it."""
    answers, losses = [], []
    for number, x in enumerate(stream(32)):
        drawn = noise(number) if noise else adapter.learner.draw(0, number, x.shape)
        output, state = adapter.kernel(prepared, state, x, drawn)
        answers.append(output.logits)
        losses += [float(output.signals["loss"])] if "loss" in output.signals else []
    return torch.cat(answers), losses, state


def parameters_are(params, reference, prefix):
    assert len(params) == 6
    for name, parameter in params.items():
        close(parameter, reference[f"{prefix}/{name}"], PARAMETERS)


def statistics_are(norm, reference, prefix):
    assert len(norm) == 3
    for name, layer in norm.items():
        close(layer.mean, reference[f"{prefix}/{name}.running_mean"], STATISTICS)
        close(layer.var, reference[f"{prefix}/{name}.running_var"], STATISTICS)


def images_are_those_of_the_stream(memory):
    stored = torch.cat(stream(32))[ids(memory)]
    assert torch.equal(places.recall(memory.places, (0.0, 1.0)), stored)


def test_rotta_without_augmentation_is_the_public_one():
    reference = np.load(REFERENCE / "rotta_identity.npz")
    adapter = create("rotta", rotta={"augment": False})
    prepared = adapter.prepare(reference_source())
    tensors = flatten(adapter.init(prepared))
    for key in (key for key in reference.files if key.startswith("student_init/")):
        tensors[f"learner/student/params/{key.removeprefix('student_init/')}"] = torch.from_numpy(reference[key])

    answers, losses, state = run(adapter, prepared, unflatten(adapter.init(prepared), tensors))

    close(answers, reference["outputs"], OUTPUTS)
    np.testing.assert_allclose(losses, reference["loss"], atol=LOSSES, rtol=0)
    parameters_are(state.learner.student.params, reference, "final_student")
    parameters_are(state.learner.teacher, reference, "final_teacher")
    for copy in ("student", "teacher"):
        statistics_are(state.norm[copy], reference, f"final_{copy}")
    memory = state.learner.memory
    assert ids(memory) == reference["memory_index"].tolist()
    assert [entry.label for entry in places.entries(memory.places)] == reference["memory_class"].tolist()
    assert category_memory.ages(memory).tolist() == reference["memory_age"].tolist()
    # Entropies reach 2.3 and are sums of ten rounded terms.
    close(memory.entropies[places.rows(memory.places)].double(), reference["memory_uncertainty"], 1e-5)
    images_are_those_of_the_stream(memory)


def test_note_by_the_recorded_draws_is_the_public_one():
    reference = np.load(REFERENCE / "note_full.npz")
    draws = recorded_draws(reference["draws"], 256)
    adapter = create("note", note={"lr": 1e-3})
    prepared = adapter.prepare(reference_source())

    answers, losses, state = run(
        adapter, prepared, adapter.init(prepared), lambda number: {"reservoir": draws[number * 32 :][:32]}
    )

    close(answers, reference["outputs"], OUTPUTS)
    np.testing.assert_allclose(losses, reference["loss"], atol=LOSSES, rtol=0)
    parameters_are(state.learner.learning.params, reference, "final")
    statistics_are(state.norm["student"], reference, "final")
    memory = state.learner.memory
    assert ids(memory) == reference["memory_index"].tolist()
    assert [entry.label for entry in places.entries(memory.places)] == reference["memory_class"].tolist()
    assert memory.counts.tolist() == reference["counter"].tolist()
    images_are_those_of_the_stream(memory)


def test_the_entropy_and_its_gradient_are_the_public_ones():
    reference = np.load(REFERENCE / "pure_losses.npz")
    logits = torch.from_numpy(reference["logits_a"]).requires_grad_()

    entropy = entropy_of_logits(logits)
    entropy.sum().backward()

    close(entropy.detach(), reference["entropy"], 1e-5)
    close(logits.grad, reference["entropy_grad_a"], 1e-5)
