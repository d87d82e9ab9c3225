"""CoTTA's chance parts, by their statistics."""

import pytest
import torch

from adapters import create
from tests.models import reference_source


def batch(count=8, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def stepped(steps=1, **options):
    """Return the source's parameters and the state after some steps."""
    adapter = create("cotta", cotta={"augmentations": 2, "optimizer": "sgd", "lr": 0.05, **options})
    prepared = adapter.prepare(reference_source())
    state = adapter.init(prepared)
    signals = []
    for step in range(steps):
        output, state = adapter.step(prepared, state, batch(seed=step))
        signals.append(float(output.signals["augmented_ratio"]))
    return prepared.net.weights, state, signals


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_the_restored_share_is_the_one_asked_for(share):
    source, state, _ = stepped(threshold=1.0, restore=share)
    _, unrestored, _ = stepped(threshold=1.0, restore=0.0)

    student = state.learner.student.params
    free = unrestored.learner.student.params
    moved = {name: free[name] != source[name] for name in source}
    back = sum(int((student[name] == source[name])[moved[name]].sum()) for name in source)
    total = sum(int(mask.sum()) for mask in moved.values())
    assert total > 3000
    assert abs(back / total - share) < 4 * (share * (1 - share) / total) ** 0.5 + 1e-9


def test_it_augments_only_where_the_source_model_is_unsure():
    assert stepped(3, threshold=1.0)[2] == [1.0, 1.0, 1.0]
    assert stepped(3, threshold=0.0)[2] == [0.0, 0.0, 0.0]


def test_two_steps_draw_differently_and_two_seeds_too():
    adapter = create("cotta")
    shape = batch().shape

    seeds = {int(adapter.learner.draw(seed, step, shape)["seed"]) for seed in range(5) for step in range(5)}

    assert len(seeds) == 25


def test_the_teacher_follows_the_unrestored_student_slowly():
    source, state, _ = stepped(threshold=1.0, restore=0.0, teacher_momentum=0.9)

    for name, parameter in state.learner.teacher.items():
        expected = 0.9 * source[name] + 0.1 * state.learner.student.params[name]
        torch.testing.assert_close(parameter, expected, atol=1e-7, rtol=0)


def test_norm_parameters_alone_can_learn():
    _, state, _ = stepped(parameters="norm")

    assert set(state.learner.teacher) == {f"{layer}.{kind}" for layer in (1, 4, 7) for kind in ("weight", "bias")}


@pytest.mark.parametrize(("normalizer", "differs"), [("batch", False), ("unmix_tns", True)])
def test_views_move_statistics_only_where_they_are_observed(normalizer, differs):
    """Public code lets them: no difference under batch statistics, and the default under unmix_tns."""
    answers = []
    for observed in (False, True):
        options = {"augmentations": 2, "threshold": 1.0, "observe_views": observed}
        adapter = create(f"{normalizer}+cotta", cotta=options)
        prepared = adapter.prepare(reference_source())
        output, _ = adapter.step(prepared, adapter.init(prepared), batch())
        answers.append(output.logits)

    assert torch.equal(*answers) != differs
    assert create("unmix_tns+cotta").options["cotta"].observe_views
    assert not create("cotta").options["cotta"].observe_views
