"""Poison: streams that learn from it are lost without guards, and found again with them; honest ones are left alone."""

from itertools import groupby

import numpy as np
import pytest
import torch

from adapters.state import is_finite
from service.demo.drift import STREAM, drifting
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.monitoring.guard import Action, Policy
from service.settings import EMBEDDED
from tests.streams import configure, serve, stream_of

UNGUARDED = Policy(collapse="off", harm="off", pause=0)
BATCH, CLEAN, POISONED = 64, 20, 20
POISONS = ["class", "noise", "inverted", "nan"]
HARSH = {"tent": {"lr": 0.05}}
"""A rate at which a learner destroys itself within some steps."""


@pytest.fixture(scope="module")
def model():
    return host(read_bundle(EMBEDDED), ["service.demo.network:build"], 1)


@pytest.fixture(scope="module")
def data():
    with np.load(STREAM) as stored:
        images, labels = stored["images"], stored["labels"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    return torch.from_numpy(images[order])[:, None].float() / 255, torch.from_numpy(labels[order])


def begin(model, spec, options, policy):
    return stream_of(model, spec, options, policy=policy)


def clean(data, count, start=0):
    """Return batches of images with labels."""
    images, labels = data
    rows = [torch.arange(number * BATCH, (number + 1) * BATCH) % len(labels) for number in range(start, start + count)]
    return [(images[row], labels[row]) for row in rows]


def poisoned(data, kind):
    images, labels = data
    generator = torch.Generator().manual_seed(1)
    if kind == "class":
        one = images[labels == 3]
        return [one[torch.randint(len(one), (BATCH,), generator=generator)] for _ in range(POISONED)]
    if kind == "noise":
        return [torch.rand(BATCH, 1, 28, 28, generator=generator) for _ in range(POISONED)]
    if kind == "inverted":
        return [1 - x for x, _ in clean(data, POISONED)]
    return [torch.full((BATCH, 1, 28, 28), torch.nan)] * POISONED


def right(probabilities, labels):
    return float((probabilities.argmax(1) == labels).float().mean())


def poisoning(model, data, spec, kind, policy):
    """Serve clean batches, poison, and clean ones; return what was served of the last two, and all decisions."""
    stream = begin(model, spec, HARSH, policy)
    before = [serve(stream, x) for x, _ in clean(data, 5)]
    during = [serve(stream, x) for x in poisoned(data, kind)]
    assert is_finite(stream.current.state.adapter)
    assert is_finite(stream.current.state.monitors)
    after = [serve(stream, x) for x, _ in clean(data, CLEAN, start=10)]
    return during, after, [served.decision for served in (*before, *during, *after) if served.decision.rule]


SPECS = ("batch+tent", "ema+tent")


def matrix(*fast):
    """All combinations, of which some are run always."""
    cells = [(spec, kind) for spec in SPECS for kind in POISONS]
    return [pytest.param(*cell, marks=() if cell in fast else pytest.mark.slow) for cell in cells]


LOST = [
    cell
    for cell in matrix(("batch+tent", "class"), ("ema+tent", "noise"))
    if cell.values != ("batch+tent", "nan")  # what is never learned from harms none but those that clean images harm
]
FOUND_AGAIN = matrix(("batch+tent", "class"), ("batch+tent", "inverted"), ("ema+tent", "noise"), ("ema+tent", "nan"))


@pytest.mark.parametrize(("spec", "kind"), LOST)
def test_without_guards_a_poisoned_stream_is_lost(model, data, spec, kind):
    _, after, decisions = poisoning(model, data, spec, kind, UNGUARDED)

    accuracies = [
        right(served.output.probabilities, y) for served, (_, y) in zip(after, clean(data, CLEAN, 10), strict=True)
    ]

    assert np.mean(accuracies[-5:]) < 0.7
    assert {decision.rule for decision in decisions} <= {"non_finite"}


@pytest.mark.parametrize(("spec", "kind"), FOUND_AGAIN)
def test_with_guards_it_soon_answers_as_well_as_the_source_model_for_a_while(model, data, spec, kind):
    _, after, decisions = poisoning(model, data, spec, kind, Policy())

    losses = [
        right(model.answer_as_source(x).probabilities, y) - right(served.output.probabilities, y)
        for served, (x, y) in zip(after, clean(data, CLEAN, 10), strict=True)
    ]

    assert min(np.mean(losses[first : first + 10]) for first in range(CLEAN - 9)) <= 0.01
    went_back = [decision for decision in decisions if decision.action is Action.ROLLED_BACK]
    assert went_back
    assert {decision.rule for decision in went_back} <= {"collapse", "harm"}
    assert all("source model" in decision.reason for decision in went_back)


def test_images_that_are_not_finite_are_never_learned_from_nor_remembered(model, data):
    stream = begin(model, "ema+tent", {}, Policy())
    x, _ = clean(data, 1)[0]
    serve(stream, x)
    before = stream.current.state.adapter
    broken = x.clone()
    broken[3, 0, 5, 5] = torch.inf

    for images in (torch.full_like(x, torch.nan), broken):
        served = serve(stream, images)

        assert (served.action, served.decision.rule) == (Action.SKIPPED, "non_finite")
        assert stream.current.state.adapter is before
        assert is_finite(stream.current.state.monitors)
        assert all(
            np.isfinite(list(figures.values())).all()
            for figures in (stream.current.readings.signals, stream.current.readings.monitored)
        )


def honest(images_per_domain, batch, severity, sort):
    """The demo's stream; within a domain mixed, or its classes one after the other."""
    for _, parts in groupby(drifting(images_per_domain, batch, severity), key=lambda part: part.domain):
        together = list(parts)
        images, labels = (np.concatenate([getattr(part, name) for part in together]) for name in ("images", "labels"))
        order = np.argsort(labels, kind="stable") if sort else np.arange(len(labels))
        for start in range(0, len(labels), batch):
            yield torch.from_numpy(images[order[start : start + batch]]).float() / 255


HONEST = [
    pytest.param("batch+tent", 64, 3, False, id="tent"),
    pytest.param("batch+tent", 16, 5, False, id="tent-16"),
    pytest.param("ema+tent", 64, 3, True, id="ema+tent-correlated"),
    pytest.param("ema+tent", 16, 5, False, id="ema+tent-16"),
    pytest.param("ema", 16, 3, True, id="ema-correlated"),
    pytest.param("ema", 4, 5, False, id="ema-4", marks=pytest.mark.slow),
    pytest.param("ema+tent", 4, 3, True, id="ema+tent-4-correlated", marks=pytest.mark.slow),
    pytest.param("ema", 1, 3, False, id="ema-1", marks=pytest.mark.slow),
    pytest.param("batch+tent", 64, 3, True, id="tent-correlated", marks=pytest.mark.slow),
    pytest.param("batch+tent", 64, 5, False, id="tent-severe", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("spec", "batch", "severity", "sort"), HONEST)
def test_an_honest_stream_is_left_alone_by_the_default_policy(model, spec, batch, severity, sort):
    stream = begin(model, spec, {}, Policy())

    served = [serve(stream, x) for x in honest(128 if batch >= 16 else 24 * batch, batch, severity, sort)]

    assert [each.decision for each in served if each.action is not Action.KEPT] == []


def test_a_stream_whose_small_requests_wait_for_a_step_is_guarded_too(model, data):
    stream = begin(model, "ema+tent", HARSH, Policy())
    configure(stream, adapt_batch_size=BATCH)

    served = [serve(stream, part) for x, _ in clean(data, CLEAN) for part in torch.split(x, BATCH // 4)]

    acted = [each for each in served if each.action is Action.ROLLED_BACK]
    assert acted
    assert {each.decision.rule for each in acted} <= {"collapse", "harm"}
    assert all(len(each.output.probabilities) == BATCH // 4 for each in acted)


CLAMPED = Policy(collapse="off", harm="off", distance="skip", max_distance=0.01)
FAST = {"tent": {"lr": 0.002}}
"""A rate at which a learner is beyond that after some steps."""


@pytest.mark.parametrize("together", [1, BATCH], ids=["steps", "windows"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_clamped_stream_never_leaves_the_allowed_distance_from_the_source(model, data, spec, together):
    stream = begin(model, spec, FAST, CLAMPED)
    configure(stream, adapt_batch_size=together)
    distances, decisions = [], []
    for x in (*(x for x, _ in clean(data, 5)), *poisoned(data, "noise")[:10]):
        for part in torch.split(x, BATCH if together == 1 else BATCH // 2):
            served = serve(stream, part)
            distances.append(stream.current.readings.monitored["parameter_distance"])
            decisions += [decision for decision in (served.waited, served.decision) if decision is not None]

    assert 0 < max(distances) <= CLAMPED.max_distance
    assert {decision.rule for decision in decisions} == {"", "distance"}
    assert stream.current.steps > 1
    assert {decision.action for decision in decisions if decision.rule} == {Action.SKIPPED}


def test_a_stream_that_is_not_clamped_goes_further(model, data):
    stream = begin(model, "batch+tent", FAST, UNGUARDED)

    for x in (*(x for x, _ in clean(data, 5)), *poisoned(data, "noise")[:10]):
        serve(stream, x)

    assert stream.current.readings.monitored["parameter_distance"] > 2 * CLAMPED.max_distance


def test_what_is_too_far_already_leads_back_where_the_policy_says_so(model, data):
    stream = begin(model, "batch+tent", HARSH, UNGUARDED)
    x, _ = clean(data, 1)[0]
    for _ in range(3):
        serve(stream, x)
    configure(stream, policy=Policy(collapse="off", harm="off", distance="reset", max_distance=0.01))

    served = serve(stream, x)

    assert (served.action, served.decision.rule) == (Action.RESET, "distance")
    assert stream.current.readings.monitored["parameter_distance"] == 0


@pytest.mark.parametrize("spec", ["source", "batch", "ema+lame"])
def test_where_no_parameters_are_learned_no_distance_is_too_far(model, data, spec):
    stream = begin(model, spec, {}, CLAMPED.model_copy(update={"max_distance": 1e-9}))

    actions = {serve(stream, x).action for x, _ in clean(data, 3)}

    assert actions == {Action.KEPT}


def test_a_clamped_stream_skips_what_is_not_finite_for_that_reason(model, data):
    stream = begin(model, "ema+tent", {}, CLAMPED)

    served = serve(stream, torch.full_like(clean(data, 1)[0][0], torch.nan))

    assert (served.action, served.decision.rule) == (Action.SKIPPED, "non_finite")


def stuck(model, data, spec, policy, copies=1, frames=80):
    """Serve clean batches, one sure clean image again and again, then clean images; return what was served of each."""
    images, labels = data
    stream = begin(model, spec, {}, policy)
    for start in range(0, 200, 10):
        serve(stream, images[start : start + 10], every=5)
    sure = model.answer_as_source(images[:200]).probabilities
    frame = int(torch.where(sure.argmax(1) == labels[:200], sure.amax(1), 0.0).argmax())
    batch = images[frame : frame + 1].repeat(copies, 1, 1, 1)
    during = [serve(stream, batch, every=5) for _ in range(frames)]
    after = [serve(stream, images[row : row + 1], every=5) for row in range(200, 260)]
    wrong = [float((each.output.probabilities.argmax(1) != labels[frame]).float().mean()) for each in during]
    regained = np.mean([right(each.output.probabilities, labels[row : row + 1]) for row, each in enumerate(after, 200)])
    return stream, during, wrong, float(regained)


@pytest.mark.parametrize("copies", [1, 16])
def test_a_camera_that_sticks_on_one_image_is_rolled_back_and_answers_right_again(model, data, copies):
    _, during, wrong, regained = stuck(model, data, "ema", Policy(), copies)

    acted = [each.decision for each in during if each.action is Action.ROLLED_BACK]
    assert acted
    assert acted[0].rule == "harm"
    assert "contradicts a confident source model" in acted[0].reason
    first = next(number for number, each in enumerate(during) if each.action is Action.ROLLED_BACK)
    assert np.mean(wrong[first : first + 30]) == 0
    assert regained > 0.85


def test_a_stuck_camera_is_suspected_where_no_guard_may_act(model, data):
    stream, during, wrong, _ = stuck(model, data, "ema", UNGUARDED)

    assert np.mean(wrong[-20:]) == 1  # the fault is real
    assert any("contradicts" in each.findings.harm for each in during)
    assert {each.action for each in during} == {Action.KEPT}
    assert stream.current.state.monitors.suspicion.looks > 20


def test_on_a_camera_that_stays_stuck_roll_backs_get_rarer_and_wrong_answers_fewer(model, data):
    _, during, wrong, _ = stuck(model, data, "ema", Policy(), frames=420)

    returns = [number for number, each in enumerate(during) if each.action is Action.ROLLED_BACK]
    apart = np.diff(returns)
    assert len(returns) >= 4
    assert (apart > np.array([32, 64, 128])[: len(apart)]).all()
    first, *later = [sum(part) for part in np.split(np.array(wrong), [at + 1 for at in returns])[:4]]
    assert max(later) < first
    assert later[-1] <= first / 2
