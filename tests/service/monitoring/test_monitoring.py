"""What the monitors of a stream find: when the source model looks, collapse and harm, alarms, and states that go on."""

import math
from dataclasses import replace

import pytest
import torch

from adapters.monitors.accuracy import Calibration
from adapters.network.source_observer import Look
from adapters.state import flatten, is_finite, unflatten
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.reference import Reference
from service.monitoring import stream_monitors
from service.monitoring.monitor_state import Seeing
from service.settings import EMBEDDED
from service.storage.snapshots.format import pack, unpack
from service.storage.snapshots.stream_files import MONITORS, restarted_monitors
from tests import streams
from tests.streams import put, restore, snapshot

CLASSES = 10
EVERY = 20
AT_HOME, AWAY, UNTOLD = 0.01, 0.5, -1.0
CALIBRATION = Calibration(torch.tensor(0.9), torch.tensor(0.9), torch.tensor(0.6))
SURE, UNSURE = 0.95, 0.4
"""Confidences above and below the threshold."""


def reference(calibration=CALIBRATION, entropies=None, prior=None):
    return Reference(
        prior=torch.full((CLASSES,), 0.1) if prior is None else prior,
        entropies=entropies,
        calibration=calibration,
        probe=None,
    )


def answers(labels, confidence=SURE):
    """Probabilities that answer labels, all as sure."""
    rest = (1 - confidence) / (CLASSES - 1)
    return torch.full((len(labels), CLASSES), rest).scatter(1, torch.tensor(labels)[:, None], confidence)


def mixed(count=64, seed=0):
    return torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def look(labels, confidence=SURE, distance=AT_HOME):
    logits = answers(labels, confidence).log()
    return Look(torch.tensor(distance), torch.empty(0), torch.tensor(0.0), logits, torch.empty(0))


def update(state, probabilities, looked=None, drift=None, known=None, every=EVERY):
    seeing = Seeing(probabilities, drift, None, looked, None if looked is None else {})
    return stream_monitors.update(state, seeing, known or reference(), takeover=0.4, margin=0.05, every=every)


def begin():
    return stream_monitors.init(CLASSES, {})


def compared(stream_labels, source_labels, requests=4, confidence=SURE, distance=AT_HOME, known=None):
    """Return what is found after some requests at all of which the source model looked."""
    state = begin()
    for _ in range(requests):
        findings = update(state, answers(stream_labels), look(source_labels, confidence, distance), known=known)
        state = findings.state
    return findings


def schedule(requests, make):
    """Return the numbers of the requests that the source model looked at; `make` returns answers and drift."""
    state, looked = begin(), []
    for number in range(requests):
        due = stream_monitors.check_due(state)
        looked += [number] if due else []
        probabilities, drift = make(number)
        labels = probabilities.argmax(1).tolist()
        findings = update(state, probabilities, look(labels) if due else None, drift)
        state = findings.state
        assert findings.looked == due
    return looked


def test_the_source_model_looks_at_the_first_and_every_nth_request():
    assert schedule(61, lambda number: (answers(mixed(seed=number)), None)) == [0, 20, 40, 60]


def test_after_an_alarm_it_looks_at_each_of_the_next_four():
    looked = schedule(60, lambda number: (answers(mixed(seed=number)), 0.01 if number < 30 else 10.0))

    first = next(number for number in looked if number > 20)
    assert 30 < first < 35
    assert looked == [0, 20, first, first + 1, first + 2, first + 3, first + 23]


def test_while_one_class_takes_most_answers_it_looks_sooner():
    assert schedule(25, lambda _: (answers([3] * 64), None)) == [0, 8, 16, 24]


def test_a_class_that_most_images_are_of_by_nature_hurries_nobody():
    state, prior = begin(), torch.tensor([0.55] + [0.05] * 9)

    state = update(state, answers([0] * 60 + [1] * 4), look([0] * 64), known=reference(prior=prior)).state

    assert int(state.check_in) == EVERY - 1


def test_a_class_that_takes_over_where_the_source_model_is_sure_of_others_is_a_collapse():
    findings = compared([3] * 64, mixed())

    assert findings.collapse.startswith("class 3 takes ")
    assert "of the source model's" in findings.collapse


def test_sixty_four_images_are_enough_for_a_verdict_however_they_come():
    for size in (1, 4, 16, 64):
        state, source = begin(), mixed()
        for start in range(0, 64, size):
            findings = update(state, answers([3] * size), look(source[start : start + size]))
            state = findings.state
            assert bool(findings.collapse) == (start + size == 64)
            assert bool(findings.harm) or start + size < 64


def test_a_stream_of_one_true_class_that_the_source_model_sees_too_is_none():
    findings = compared([3] * 64, [3] * 64)

    assert (findings.collapse, findings.harm) == ("", "")


def test_a_domain_where_the_source_model_is_unsure_shows_neither_collapse_nor_harm():
    findings = compared([3] * 64, mixed(), confidence=UNSURE)

    assert (findings.collapse, findings.harm) == ("", "")


def test_without_a_calibration_collapse_is_told_by_confidence_and_harm_never():
    sure, unsure = (compared([3] * 64, mixed(), confidence=c, known=reference(None)) for c in (SURE, UNSURE))

    assert sure.collapse
    assert (sure.harm, unsure.harm, unsure.collapse) == ("", "", "")
    assert "estimated_accuracy" not in sure.signals
    assert sure.signals["source_estimated_accuracy"] == pytest.approx(SURE, abs=1e-3)


def differing(count, of=64):
    """Labels of which some differ from those of `mixed`, each to another class."""
    return [(label + 1) % CLASSES if number < count else label for number, label in enumerate(mixed(of))]


def test_differing_from_a_sure_source_model_on_its_own_domain_is_harm():
    findings = compared(differing(16), mixed())

    assert findings.collapse == ""
    assert "about 100 %" in findings.harm
    assert "75 %" in findings.harm


@pytest.mark.parametrize("distance", [AWAY, UNTOLD])
def test_away_from_home_or_where_nobody_knows_there_is_no_harm(distance):
    assert compared(differing(32), mixed(), distance=distance).harm == ""


def test_differing_within_the_margin_is_no_harm():
    assert compared(differing(3), mixed()).harm == ""


@pytest.mark.parametrize(("differs", "harmful"), [(30, False), (42, True)])
def test_harm_is_told_where_the_source_model_must_be_better_whatever_the_truth(differs, harmful):
    source = torch.cat([answers(mixed()[:44]), answers(mixed()[44:], UNSURE)]).log()
    seen = replace(look(mixed()), logits=source)
    state = begin()

    for _ in range(4):
        findings = update(state, answers(differing(differs)), seen)
        state = findings.state

    assert findings.signals["source_estimated_accuracy"] == pytest.approx(44 / 64)  # errs on 20: twice that is 40
    assert bool(findings.harm) == harmful


def test_where_the_source_model_does_not_look_nothing_is_held_against_the_stream():
    state = compared([3] * 64, mixed()).state

    findings = update(state, answers([3] * 64))

    assert (findings.collapse, findings.harm, findings.looked) == ("", "", False)


def test_an_alarm_says_what_was_before_and_what_is_now():
    state, told = begin(), []
    for number in range(40):
        findings = update(state, answers(mixed(seed=number)), drift=0.01 if number < 20 else 1.0)
        state = findings.state
        told += findings.alarms

    assert [(alarm.signal, alarm.detector, alarm.rose) for alarm in told] == [("drift", "page_hinkley", True)]
    assert told[0].figures["now"] == pytest.approx(1.0)
    assert told[0].figures["before"] == pytest.approx(0.01, rel=1e-3)
    assert told[0].figures["statistic"] > told[0].figures["limit"]
    assert told[0].reason == f"drift rose from {told[0].figures['before']:.3g} to 1"


def test_a_drift_that_ends_is_told_as_such():
    state, ended = begin(), []
    for number in range(40):
        findings = update(state, answers(mixed(seed=number)), drift=1.0 if number < 20 else 0.01)
        state = findings.state
        ended += [findings.drift_ended] if findings.drift_ended else []

    assert len(ended) == 1
    assert ended[0].startswith("drift fell from")


def test_entropies_that_rise_are_told_and_steady_ones_are_not():
    state, told = begin(), []
    for number in range(120):
        findings = update(state, answers(mixed(seed=number), SURE if number < 60 else UNSURE))
        state = findings.state
        told += [(number, alarm.signal, alarm.rose) for alarm in findings.alarms]

    assert [alarm[1:] for alarm in told] == [("entropy", True)]
    assert 60 < told[0][0] < 110


def test_a_source_model_that_is_unlike_itself_is_told_once_in_a_while():
    known, state, told = reference(entropies=torch.linspace(0, 1, 101)), begin(), []
    for number in range(100):
        findings = update(state, answers(mixed()), look(mixed(), UNSURE), known=known)
        state = findings.state
        told += [(number, alarm.signal) for alarm in findings.alarms]

    assert [signal for _, signal in told] == ["source_entropy"]
    assert told[0][0] < 10


@pytest.mark.parametrize("broken", ["stream", "source", "both", "some"])
def test_answers_that_are_not_finite_are_never_remembered(broken):
    state = compared(mixed(), mixed()).state
    nan = torch.full((64, CLASSES), math.nan)
    probabilities, seen = answers(mixed()), look(mixed(), distance=math.nan)
    if broken == "some":
        probabilities[5], seen.logits[9] = math.nan, math.inf
    probabilities = nan if broken in ("stream", "both") else probabilities
    seen = replace(seen, logits=nan) if broken in ("source", "both") else seen

    findings = update(state, probabilities, seen, drift=math.inf, known=reference(entropies=torch.linspace(0, 1, 101)))

    assert is_finite(findings.state)
    assert all(math.isfinite(value) for value in findings.signals.values())
    assert float(findings.state.agreement.mean) == 1
    assert float(findings.state.source_accuracy.mean) == 1
    assert (findings.collapse, findings.harm) == ("", "")


def test_after_going_back_the_answers_are_watched_anew_and_learning_pauses_longer_each_time():
    state, pauses = compared([3] * 64, mixed()).state, []
    for _ in range(9):
        state = stream_monitors.alerted(stream_monitors.begun_again(state, begin()), 32)
        pauses.append(int(state.pause))

    assert pauses == [32, 64, 128, 256, 512, 1024, 2048, 4096, 4096]
    assert float(state.agreement.weight) == float(state.checked.weight) == 0
    assert stream_monitors.check_due(state)
    assert int(update(state, answers(mixed())).state.pause) == 4095


def test_no_harm_is_found_while_the_latest_look_agrees():
    state = compared([3] * 64, mixed()).state
    assert compared([3] * 64, mixed()).harm

    findings = update(state, answers(mixed()), look(mixed()))

    assert findings.harm == ""
    assert float(findings.state.agreement.mean) < 0.5


@pytest.mark.parametrize(("unusual", "harmed"), [(0, True), (10, False)])
def test_inputs_with_usual_pooled_statistics_are_not_the_sources_own_if_single_images_are_unusual(unusual, harmed):
    alone = torch.full((64,), 0.1)
    alone[:unusual] = 0.4
    known = replace(reference(), usual_distance=0.3)
    state = begin()
    for _ in range(4):
        seen = replace(look(mixed()), alone=alone)
        findings = update(state, answers([3] * 32 + mixed()[32:]), seen, known=known)
        state = findings.state

    assert ("inputs look like the source's own" in findings.harm) == harmed


def test_the_count_of_guard_actions_does_not_decay_in_a_pause():
    state = stream_monitors.alerted(begin(), 32)

    for _ in range(32):
        state = update(state, answers(mixed(4))).state
    assert (int(state.pause), float(state.recent)) == (0, 1)
    for _ in range(1000):
        state = update(state, answers(mixed(4)), every=10**9).state

    assert float(state.recent) == pytest.approx(math.exp(-1), abs=1e-3)


def test_soon_after_a_guard_action_half_of_the_evidence_proves_harm():
    def needed(state):
        """Return after how many looks at one contradicted image harm is found."""
        for number in range(1, 100):
            findings = update(state, answers([3]), look([1], confidence=0.999, distance=AWAY))
            if findings.harm:
                return number
            state = findings.state
        raise AssertionError("no harm was found")

    first, second = needed(begin()), needed(stream_monitors.alerted(begin(), 0))

    assert 10 <= first <= 20
    assert first / 2 - 1 <= second <= first / 2 + 2


def test_a_pause_of_0_is_none():
    assert int(stream_monitors.alerted(begin(), 0).pause) == 0


def walk(state, numbers):
    for number in numbers:
        looked = look(mixed(seed=number + 1)) if number % 3 == 0 else None
        state = update(state, answers(mixed(seed=number)), looked, drift=0.01 * (1 + number % 5)).state
    return state


def assert_equal_states(one, other):
    first, second = flatten(one), flatten(other)
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_state_survives_as_named_tensors_and_goes_on_bit_for_bit():
    state = walk(begin(), range(30))

    again = unflatten(begin(), {name: tensor.clone() for name, tensor in flatten(state).items()})

    assert_equal_states(walk(again, range(30, 60)), walk(state, range(30, 60)))


@pytest.fixture(scope="module")
def model():
    return host(read_bundle(EMBEDDED), ["service.demo.network:build"], 1)


def stream_of(model):
    return streams.stream_of(model, model.default.spec)


def serve(stream, seed):
    x = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    return streams.serve(stream, x, every=3)


def test_a_stream_restored_from_a_snapshot_goes_on_watching_bit_for_bit(model):
    stream, restored = stream_of(model), stream_of(model)
    for seed in range(7):
        serve(stream, seed)
    restore(restored, snapshot(stream)[1])

    for seed in range(7, 14):
        one, other = serve(stream, seed), serve(restored, seed)
        assert one.findings.signals == other.findings.signals
        assert one.findings.alarms == other.findings.alarms

    assert_equal_states(stream.current.state.monitors, restored.current.state.monitors)


def test_a_snapshot_from_before_there_were_monitors_begins_to_watch_anew(model):
    stream, restored = stream_of(model), stream_of(model)
    serve(stream, 0)
    manifest, tensors = unpack(snapshot(stream)[1])
    older = pack(manifest, {name: tensor for name, tensor in tensors.items() if not name.startswith(MONITORS)})

    restore(restored, older)

    assert_equal_states(restored.current.state.adapter, stream.current.state.adapter)
    assert_equal_states(restored.current.state.monitors, restored.current.config.initial().monitors)
    assert serve(restored, 1).findings.looked


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"monitors/yet_unknown": torch.zeros(3)}, ["yet_unknown"]),
        ({"monitors/recent": None}, ["recent"]),
        ({"monitors/detectors/step/mean": None}, ["detectors/step"]),
        ({"monitors/entropies/counts": torch.zeros(7)}, ["entropies"]),
        ({"monitors/detectors/step/mean": None, "monitors/new/count": torch.zeros(())}, ["new", "detectors/step"]),
    ],
)
def test_a_snapshot_with_other_monitors_keeps_those_that_are_known_and_says_which_begin_anew(model, change, anew):
    stream, restored = stream_of(model), stream_of(model)
    for seed in range(3):
        serve(stream, seed)
    put(stream, monitors=stream_monitors.alerted(stream.current.state.monitors, 32))
    manifest, tensors = unpack(snapshot(stream)[1])
    other = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}

    restore(restored, pack(manifest, other))

    states = (restored.current.state, stream.current.state, stream.current.config.initial())
    now, before, fresh = (flatten(each.monitors) for each in states)
    assert int(restored.current.state.monitors.pause) == 32
    for name, tensor in now.items():
        expected = fresh if any(name == each or name.startswith(f"{each}/") for each in anew) else before
        assert torch.equal(tensor, expected[name]), name
    assert restarted_monitors(restored.current.config, other).endswith(f"{', '.join(anew)} begin again")
    assert restarted_monitors(restored.current.config, tensors) == ""
