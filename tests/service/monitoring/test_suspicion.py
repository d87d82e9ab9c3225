"""When a stream is suspected to be worse than its source model, and when it is not."""

import math

import pytest
import torch

from adapters.monitors.accuracy import Calibration
from adapters.state import is_finite
from service.monitoring import suspicion
from service.monitoring.suspicion import CONTRADICTION_ALPHA, NONE, TOLERATED, Compared

CLASSES = 10
CALIBRATION = Calibration(torch.tensor(0.95), torch.tensor(0.95), torch.tensor(0.6))
USUAL = 0.3
BUDGET = 0.1


def sure_of(labels, confidence):
    rest = (1 - confidence) / (CLASSES - 1)
    return torch.full((len(labels), CLASSES), rest).scatter(1, torch.tensor(labels)[:, None], confidence)


def seen(equal, of=1, source=0.999, own=0.9, alone=0.1, usual=USUAL, known=CALIBRATION):
    """One look at `of` images, of which the stream answers `equal` as the source model does."""
    answers = [1] * equal + [2] * (of - equal)
    return Compared(sure_of([1] * of, source), sure_of(answers, own), torch.full((of,), alone), usual, known)


def after(looks):
    """Return the state after some looks, and the alarms on the way with their places."""
    state, alarms = suspicion.init(), []
    for number, look in enumerate(looks):
        state, alarm = suspicion.update(state, look)
        alarms += [] if alarm is None else [(number, alarm)]
    return state, alarms


def cause(state, gap=None, known=CALIBRATION):
    return suspicion.judged(state, known, gap, BUDGET).cause


@pytest.mark.parametrize("of", [1, 16, 64])
def test_a_stream_that_contradicts_a_confident_source_model_is_suspected_after_some_looks_at_any_batch_size(of):
    needed = next(n for n in range(1, 100) if cause(after([seen(0, of)] * n)[0]) == "contradiction")

    assert 10 <= needed <= 20


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(seen(1), id="agrees"),
        pytest.param(seen(0, source=0.75), id="the source model is unsure"),
        pytest.param(seen(0, alone=0.4), id="the image is unlike the source's"),
        pytest.param(seen(12, 16), id="a quarter differs"),
    ],
)
def test_a_stream_is_not_accused_of_contradiction_where(look):
    state, _ = after([look] * 100)

    assert suspicion.contradicts(state) == ""


def test_an_overconfident_source_model_counts_by_what_its_confidence_is_worth():
    overconfident = Calibration(torch.tensor(0.7), torch.tensor(0.95), torch.tensor(0.6))

    state, _ = after([seen(0, known=overconfident)] * 100)

    assert suspicion.contradicts(state) == ""


@pytest.mark.parametrize(("usual", "alone"), [(None, 0.4), (USUAL, None)])
def test_where_no_layer_measures_images_alone_confidence_decides(usual, alone):
    look = seen(0, usual=usual)
    if alone is None:
        look = Compared(look.source, look.answers, torch.empty(0), usual, CALIBRATION)

    assert cause(after([look] * 30)[0]) == "contradiction"


def test_false_alarms_are_as_rare_as_stated_where_as_much_is_contradicted_as_is_tolerated():
    chances = torch.rand(1_000, generator=torch.Generator().manual_seed(0)) < TOLERATED
    state = suspicion.init()
    accused = 0
    for contradicted in chances.tolist():
        state, _ = suspicion.update(state, seen(int(not contradicted), source=1.0))
        accused += bool(suspicion.contradicts(state))

    assert accused <= 1_000 * CONTRADICTION_ALPHA + 1


def test_suspicion_ends_soon_after_the_stream_agrees_again():
    state, _ = after([seen(0)] * 100)

    for _ in range(20):  # the recent means remember longer than the evidence does
        state, _ = suspicion.update(state, seen(1))

    assert cause(state) == ""


@pytest.mark.parametrize("of", [1, 16])
def test_agreement_that_falls_far_below_its_past_is_an_alarm_even_where_nobody_is_sure(of):
    generator = torch.Generator().manual_seed(1)

    def looks(share, count):
        return [seen(int((torch.rand(of, generator=generator) < share).sum()), of, source=0.6) for _ in range(count)]

    _, alarms = after(looks(0.88, 40) + looks(0.27, 80))

    assert [alarm.signal for _, alarm in alarms] == ["agreement"]
    number, alarm = alarms[0]
    assert 40 < number < 110
    assert alarm.figures["before"] > 0.8
    assert alarm.figures["now"] < 0.5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_agreement_that_only_varies_is_no_alarm(share, seed):
    generator = torch.Generator().manual_seed(seed)

    _, alarms = after([seen(int(float(torch.rand((), generator=generator)) < share)) for _ in range(400)])

    assert alarms == []


def test_soon_after_a_roll_back_half_of_the_evidence_is_enough_and_never_less():
    def needed(returns):
        return next(n for n in range(1, 100) if suspicion.contradicts(after([seen(0)] * n)[0], returns))

    shares = [needed(returns) / needed(0) for returns in (0.5, 1, 3)]

    assert shares == pytest.approx([2 / 3, 1 / 2, 1 / 2], abs=0.1)
    assert suspicion.contradicts(after([seen(12, 16)] * 100)[0], 3) == ""
    state, _ = after([seen(0)] * needed(1))
    assert [suspicion.judged(state, CALIBRATION, None, BUDGET, returns).cause for returns in (0, 1)] == [
        "", "contradiction",
    ]  # fmt: skip


def test_fallen_agreement_is_suspected_only_while_the_source_model_is_as_sure_as_on_its_own_data():
    fallen = [seen(0, alone=0.4)] * 20

    confident, _ = after([seen(1)] * 20 + fallen)
    unsure, _ = after([seen(1)] * 20 + [seen(0, source=0.5)] * 40)

    assert cause(confident) == "agreement"
    assert cause(unsure) == ""


def test_a_stream_that_seems_less_accurate_than_the_source_model_to_itself_is_suspected():
    assert cause(after([seen(1, own=0.3)] * 8)[0]) == "accuracy"
    assert cause(after([seen(1, own=0.3, source=0.5)] * 8)[0]) == ""


def test_a_few_single_images_do_not_prove_a_lower_estimated_accuracy():
    """The estimate of one image is 0 or 1, so the means of a few differ by more than LOWER by chance."""
    by_chance = [seen(1, own=0.3 if number % 2 else 0.9) for number in range(6)]

    assert cause(after(by_chance)[0]) == ""
    assert cause(after([*by_chance, *[seen(1, own=0.3)] * 16])[0]) == "accuracy"


def test_estimated_accuracies_are_not_compared_while_inputs_are_unusual():
    one_in_six = [*[seen(1, own=0.3)] * 5, seen(1, own=0.3, alone=0.4)] * 10
    one_in_hundred = [seen(1, own=0.3, alone=0.4), *[seen(1, own=0.3)] * 99]

    assert cause(after(one_in_six)[0]) == ""
    assert cause(after(one_in_hundred)[0]) == "accuracy"


def test_the_share_of_unusual_images_outlives_a_roll_back():
    known, unknown = after([seen(1)] * 64)[0], after([seen(1, alone=0.4)] * 64)[0]

    assert suspicion.inputs_are_usual(known)
    assert not suspicion.inputs_are_usual(unknown)
    assert not suspicion.inputs_are_usual(suspicion.begun_again(unknown))
    assert suspicion.inputs_are_usual(after([seen(1, alone=0.4, usual=None)] * 64)[0])


def test_a_source_gap_over_the_budget_is_suspected_where_inputs_are_the_sources_own_alone():
    at_home, away = after([seen(1)] * 8)[0], after([seen(1, source=0.5, own=0.5)] * 8)[0]

    assert (cause(at_home, 0.232), cause(at_home, 0.05), cause(at_home), cause(away, 0.232)) == (
        "source_gap", "", "", "",
    )  # fmt: skip


def test_a_source_gap_is_not_suspected_while_inputs_are_unusual():
    """A stream that rightly follows corrupted inputs loses on source images, however sure the source model is."""
    corrupted = after([seen(4, 5, alone=0.1), seen(1, alone=0.4)] * 20)[0]

    assert cause(corrupted, 0.232) == ""


def test_without_a_probe_set_a_sure_source_model_is_believed():
    assert cause(after([seen(1, own=0.3, known=None)] * 8)[0], known=None) == "accuracy"
    assert cause(after([seen(1, own=0.3, source=0.7, known=None)] * 8)[0], known=None) == ""


def test_nothing_is_suspected_before_there_is_evidence():
    assert suspicion.judged(suspicion.init(), CALIBRATION, 0.9, BUDGET) == NONE


def test_evidence_is_bounded_and_finite_whatever_comes():
    state, _ = after([seen(0)] * 1000 + [seen(1)] * 1000 + [seen(0, 64, source=1.0, own=1.0)] * 100)

    assert is_finite(state)
    assert float(state.evidence) <= 1 - math.log(CONTRADICTION_ALPHA)


def test_after_going_back_only_the_usual_agreement_and_the_looks_are_remembered():
    state, _ = after([seen(1)] * 20 + [seen(0)] * 30)

    begun = suspicion.begun_again(state)

    assert float(begun.evidence) == float(begun.contradiction.weight) == 0
    assert (int(begun.looks), float(begun.usual.mean)) == (50, float(state.usual.mean))
