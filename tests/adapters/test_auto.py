"""Auto: what it decides on made streams, when it decides anew, and that it says why."""

import dataclasses

import numpy as np
import pytest
import torch

from adapters import create
from adapters.choosing.diagnosis import Situation, situation_of
from tests.models import REFERENCE, calibrated, reference_source, vit_source

SITUATION = Situation(batch=64.0, distance=0.2, roughness=0.1, entropy=0.3, correlation=0.0, run_length=1.1)


def begun(source=None, **options):
    adapter = create("auto", auto={"decide_after": 32, **options})
    source = calibrated(reference_source, adapter) if source is None else source
    prepared = adapter.prepare(source)
    return adapter, prepared, adapter.init(prepared)


def images(batch, seed=0, count=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, count, count, generator=generator)


def stepped(adapter, prepared, state, batches):
    for x in batches:
        output, state = adapter.step(prepared, state, x)
    return output, state


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "fair"),
        ({"batch": 4.0}, "small"),
        ({"batch": 1.0}, "single"),
        ({"batch": 1.0, "roughness": 0.5}, "one_by_one"),
        ({"batch": 4.0, "roughness": 0.5}, "one_by_one"),
        ({"roughness": 0.5}, "one_by_one"),
        ({"correlation": 0.3, "batch": 4.0}, "correlated"),
        ({"correlation": 0.3}, "correlated"),
        ({"correlation": 0.3, "batch": 1.0}, "one_by_one"),
        ({"distance": 0.01, "entropy": 0.05}, "calm"),
        ({"distance": 0.01, "entropy": 0.5}, "fair"),
        ({"distance": None, "entropy": 0.05}, "calm"),
        ({"distance": 0.5, "entropy": 0.05}, "fair"),
    ],
)
def test_each_situation_is_told_by_its_figures(changes, expected):
    decide = create("auto").decide

    assert decide(dataclasses.replace(SITUATION, **changes)) == expected


def test_it_decides_once_enough_images_have_come_and_not_before():
    adapter, prepared, state = begun()

    _, before = stepped(adapter, prepared, state, [images(8, seed) for seed in range(3)])
    output, after = stepped(adapter, prepared, before, [images(8, 3)])

    assert prepared.running(before) == ("one_by_one", "small")
    assert "decides after 8 more images" in adapter.explain(prepared, before)
    assert len(prepared.running(after)) == 1
    assert int(output.signals["choice"]) == list(prepared.pipelines).index(*prepared.running(after))
    assert "equal labels (correlation" in adapter.explain(prepared, after)


def test_between_drift_events_the_choice_stands_whatever_the_figures_say():
    adapter, prepared, state = begun(threshold=1e6)
    _, decided = stepped(adapter, prepared, state, [images(8, seed) for seed in range(4)])

    one = images(1, 9).repeat(8, 1, 1, 1)
    _, later = stepped(adapter, prepared, decided, [one] * 20)

    assert situation_of(later.diagnosis).correlation > 0.1  # it would be called correlated now
    assert prepared.running(later) == prepared.running(decided)


def test_a_drift_event_makes_it_decide_anew():
    adapter, prepared, state = begun(decide_after=16, memory=16, check_every=1)
    _, decided = stepped(adapter, prepared, state, [images(16, seed) for seed in range(6)])

    faint = [0.02 * images(16, seed) for seed in range(12)]
    output, later = stepped(adapter, prepared, decided, faint)

    assert int(decided.diagnosis.events) == 0
    assert int(later.diagnosis.events) >= 1
    assert int(output.signals["drift_events"]) == int(later.diagnosis.events)


def test_a_pipeline_that_begins_and_one_that_stops_are_in_the_state_before_any_batch():
    adapter, prepared, state = begun()
    _, after = stepped(adapter, prepared, state, [images(8, seed) for seed in range(4)])

    for situation in set(after.pipelines) - {*prepared.running(after)}:
        assert after.pipelines[situation] is prepared.fits[situation].initial


def test_before_a_decision_the_answers_are_the_mean_of_those_that_run():
    adapter, prepared, state = begun(decide_after=1000)
    x = images(8)

    output, after = adapter.step(prepared, state, x)

    alone = [
        prepared.pipelines[name].step(prepared.fits[name], state.pipelines[name], x)[0].probabilities
        for name in ("one_by_one", "small")
    ]
    torch.testing.assert_close(output.probabilities, torch.stack(alone).mean(0))
    torch.testing.assert_close(output.logits.softmax(1), output.probabilities, atol=1e-6, rtol=0)
    assert int(output.signals["choice"]) == -1
    for answered in (adapter.predict(prepared, after, x), adapter.probe(prepared, after, x)):
        torch.testing.assert_close(answered.probabilities.sum(1), torch.ones(8))


def test_single_images_are_answered_by_the_mean_of_two_and_the_second_goes_on_from_what_it_learned():
    adapter, prepared, state = begun(decide_after=4, threshold=1e6, correlated=1.0, rough=10.0)
    _, before = stepped(adapter, prepared, state, [images(1, seed) for seed in range(3)])
    _, decided = stepped(adapter, prepared, before, [images(1, 3)])

    x = images(1, 4)
    output, _ = adapter.step(prepared, decided, x)

    assert prepared.running(decided) == ("single", "one_by_one")
    assert "single (the mean of rotta_bn and note_iabn+note)" in adapter.explain(prepared, decided)
    assert int(decided.pipelines["one_by_one"].steps) == 4
    alone = [
        prepared.pipelines[name].step(prepared.fits[name], decided.pipelines[name], x)[0].probabilities
        for name in ("single", "one_by_one")
    ]
    torch.testing.assert_close(output.probabilities, torch.stack(alone).mean(0))


def test_the_frozen_model_looks_at_every_request_before_a_decision_and_at_some_after_it():
    adapter, prepared, state = begun(check_every=4, threshold=1e6)
    looks = []
    for seed in range(12):
        before = state
        _, state = adapter.step(prepared, before, images(8, seed))
        looks.append(state.seen is not before.seen)

    assert looks == [True] * 5 + [False] * 3 + [True] + [False] * 3


def test_what_a_model_is_unfit_for_is_left_out_and_said():
    _, prepared, _ = begun(reference_source())

    assert str(prepared.pipelines["fair"].spec) == "rotta_bn+roid+roid_prior"
    assert "rmt" in prepared.degraded
    assert "calibrate" in prepared.degraded
    vit = create("auto")
    fitted = vit.prepare(vit_source())
    assert {str(pipeline.spec) for pipeline in fitted.pipelines.values()} >= {"source", "source+eta"}
    output, state = vit.step(fitted, vit.init(fitted), images(4))
    assert torch.isfinite(output.probabilities).all()
    assert "opening (the mean of source and source+eta)" in vit.explain(fitted, state)


def test_on_the_models_own_domain_it_does_nothing():
    stored = own_images()
    adapter, prepared, state = begun(calm_distance=0.2, calm_entropy=0.5)

    _, after = stepped(adapter, prepared, state, stored[:256].split(32))

    assert prepared.running(after) == ("calm",)
    source = create("source")
    fit = source.prepare(reference_source())
    expected = source.predict(fit, source.init(fit), stored[:32]).logits
    torch.testing.assert_close(adapter.predict(prepared, after, stored[:32]).logits, expected, atol=1e-5, rtol=0)


def test_a_return_to_the_models_own_domain_is_seen_whatever_was_learned_in_between():
    stored = own_images()
    adapter, prepared, state = begun(calm_distance=0.2, calm_entropy=0.5, check_every=2)

    _, away = stepped(adapter, prepared, state, [0.3 + 0.4 * images(32, seed) for seed in range(8)])
    _, back = stepped(adapter, prepared, away, stored.repeat(2, 1, 1, 1)[:768].split(32))

    assert prepared.running(away) != ("calm",)
    assert prepared.running(back) == ("calm",)


def own_images():
    """Source images of the reference problem: near, sure, in no order."""
    return torch.from_numpy(np.load(REFERENCE / "stream.npz")["source_x"]).float() / 255
