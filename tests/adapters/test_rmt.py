"""RMT where public code breaks, what its artefact holds, and what the learner uses of it."""

import dataclasses

import pytest
import torch

from adapters import SourceImages, create
from adapters.errors import UnfitModelError
from adapters.state import is_finite
from tests.models import reference_source


def batch(count=8, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def images(count=48, classes=10):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return SourceImages(pixels, torch.arange(count) % classes)


def made(data=None, **options):
    return create("rmt", rmt=options).calibrate(reference_source(), data or images(), 16, lambda _: None)


def holding(artefact):
    return dataclasses.replace(reference_source(), artefacts={f"rmt.{name}": x for name, x in artefact.items()})


def prepared_with(artefact, **options):
    adapter = create("rmt", rmt=options)
    return adapter, adapter.prepare(holding(artefact))


def learned(artefact, batches, **options):
    adapter, prepared = prepared_with(artefact, **options)
    state = adapter.init(prepared)
    for x in batches:
        _, state = adapter.step(prepared, state, x)
    return state.learner


def test_equal_images_and_one_image_leave_everything_finite():
    artefact = made()

    for x in (batch(1).repeat(8, 1, 1, 1), batch(1), torch.zeros(2, 3, 16, 16)):
        assert is_finite(learned(artefact, [x, x]))


def test_a_class_without_a_source_image_is_left_out_of_the_search():
    artefact = made(images(classes=9))

    assert artefact["seen"].tolist() == [True] * 9 + [False]
    assert torch.isfinite(artefact["prototypes"]).all()
    assert is_finite(learned(artefact, [batch()]))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.zeros(0, dtype=torch.int64), "with their labels; these 48 images have none"),
        (torch.arange(48), "from 0 to 9; these run from 0 to 47"),
        (torch.arange(48) % 2 - 1, "from 0 to 9; these run from -1 to 0"),
    ],
)
def test_images_without_fitting_labels_are_refused(labels, reason):
    with pytest.raises(UnfitModelError, match=reason):
        made(dataclasses.replace(images(), labels=labels))


def test_a_model_without_the_artefact_is_refused():
    with pytest.raises(UnfitModelError, match="rmt needs the source artefact 'rmt', which this model lacks"):
        create("rmt").prepare(reference_source())


def test_an_artefact_of_another_model_is_refused():
    artefact = {**made(), "student.0.weight": torch.zeros(1)}

    with pytest.raises(UnfitModelError, match=r"does not fit this model: student\.0\.weight"):
        prepared_with(artefact)


def test_what_the_artefact_holds_follows_the_options():
    told = []
    full = create("rmt", rmt={"warm_up": 2}).calibrate(reference_source(), images(50), 16, told.append)
    bare = made(warm_up=0, replay=0)

    assert (int(full["batch"]), int(full["images"]), int(full["count"])) == (16, 48, 6)
    assert sum(told) == pytest.approx(1)
    assert full["replay.images"].dtype == torch.uint8
    assert len(full["replay.images"]) == len(full["replay.labels"]) == 48
    assert not [name for name in bare if name.startswith(("student", "teacher", "mu", "nu", "replay", "count"))]
    assert len(made(replay=40)["replay.images"]) == 32
    assert len(made(replay=5)["replay.images"]) == 5


def test_it_says_what_it_does_without():
    bare = made(warm_up=0, replay=0)

    assert prepared_with(made())[1].degraded == ""
    assert prepared_with(bare)[1].degraded == (
        "rmt starts as the source: its artefact was made without a warm-up; "
        "rmt learns source-free: its artefact holds no images to replay"
    )
    assert prepared_with(bare, warm_up=0, lambda_source=0.0)[1].degraded == ""
    assert is_finite(learned(bare, [batch()]))


def test_without_a_warm_up_it_starts_as_the_source_and_with_another_optimizer_from_zero_moments():
    artefact = made()

    plain = learned(artefact, [], warm_up=0)
    warm = learned(artefact, [])
    other = learned(artefact, [], optimizer="sgd")

    source = create("batch").prepare(reference_source()).net.weights
    assert all(torch.equal(p, source[name]) for name, p in plain.student.params.items())
    assert not torch.equal(warm.student.params["0.weight"], source["0.weight"])
    assert (int(plain.student.optimizer.count), int(warm.student.optimizer.count)) == (0, 3)
    assert torch.equal(other.student.params["0.weight"], warm.student.params["0.weight"])
    assert not other.student.optimizer.mu["0.weight"].any()


def test_source_images_are_replayed_in_stored_order_round_and_round():
    artefact = made(warm_up=0)
    learner, prepared = create("rmt").learner, prepared_with(artefact)[1]

    labels = [learner._replayed(prepared.net, count, 16)[1].tolist() for count in range(4)]

    stored = artefact["replay.labels"].tolist()
    assert labels == [stored[:16], stored[16:32], stored[32:], stored[:16]]
    assert create("rmt", rmt={"lambda_source": 0.0}).learner._replayed(prepared.net, 0, 16) is None
    assert len(learner._replayed(prepared.net, 5, 3)[1]) == 3  # as many as were sent
    assert len(learner._replayed(prepared.net, 0, 1000)[1]) == len(stored)


def test_replay_is_learned_from_step_by_step():
    artefact = made(warm_up=0)
    swapped = {**artefact, "replay.labels": artefact["replay.labels"].roll(1)}

    first = learned(artefact, [batch()], optimizer="sgd").student.params["11.weight"]
    second = learned(swapped, [batch()], optimizer="sgd").student.params["11.weight"]

    assert not torch.equal(first, second)


def test_it_answers_with_the_sum_of_student_and_teacher_from_before_the_step():
    adapter, prepared = prepared_with(made())
    before = adapter.init(prepared)
    x = batch()

    output, after = adapter.step(prepared, before, x)

    with torch.no_grad():
        student = prepared.net.forward(before.learner.student.params, before.norm["student"], x).logits
        teacher = prepared.net.forward(before.learner.teacher, before.norm["teacher"], x).logits
    torch.testing.assert_close(output.logits, student + teacher, atol=1e-5, rtol=0)
    for name, p in before.learner.teacher.items():
        expected = 0.999 * p + 0.001 * after.learner.student.params[name]
        torch.testing.assert_close(after.learner.teacher[name], expected, atol=1e-7, rtol=0)


def test_the_augmented_view_is_drawn_from_seed_and_step():
    learner = create("rmt").learner

    seeds = {int(learner.draw(seed, step, batch().shape)["seed"]) for seed in range(5) for step in range(5)}

    assert len(seeds) == 25
    artefact = made(warm_up=0)
    one, other = (learned(artefact, [batch()], augment=on).student.params["0.weight"] for on in (True, False))
    assert not torch.equal(one, other)


def test_views_change_the_answer_alone_and_come_from_the_steps_own_seed():
    artefact = made()
    adapter, prepared = prepared_with(artefact)
    viewing, also = prepared_with(artefact, views=3)
    x = batch()

    plain, learned_plain = adapter.step(prepared, adapter.init(prepared), x)
    seen, learned_seen = viewing.step(also, viewing.init(also), x)
    again, _ = viewing.step(also, viewing.init(also), x)

    assert torch.equal(seen.logits, again.logits)
    assert not torch.equal(seen.logits, plain.logits)
    for name, p in learned_plain.learner.student.params.items():
        assert torch.equal(p, learned_seen.learner.student.params[name])
