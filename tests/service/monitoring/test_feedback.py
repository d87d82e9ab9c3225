"""Late labels: true accuracy by them, what is refused, how long they are taken, and estimates beside them."""

import time

import numpy as np
import pytest

from service.monitoring import late_labels as feedback_module
from service.monitoring.late_labels import Answered, Feedback, Tally
from tests.applications import application, assert_error
from tests.serving import images, outputs

NAMES = "abcdefghij"
DAY = 86_400.0


def give(api, *items, stream="s"):
    body = {"items": [{"request": request, "labels": list(labels)} for request, labels in items]}
    return api("POST", f"/v1/streams/{stream}/feedback", json=body)


def answered(api, count, request, seed=0, **parameters):
    """Send a batch; return the labels that were answered."""
    answer = api.infer(images(count, seed), "s", request, **parameters)
    return [int(label) for label in outputs(answer)["labels"]]


def wrong(labels):
    return [(label + 1) % 10 for label in labels]


def metric(api, outcome):
    lines = api("GET", "/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("acclimate_feedback_samples_total") and f'"{outcome}"' in line]
    return float(found[0].split()[-1])


def test_labels_by_name_and_by_number_tell_the_true_accuracy(api):
    first, second = answered(api, 4, "one"), answered(api, 2, "two", seed=1)

    told = give(api, ("one", [NAMES[label] for label in first[:3]] + wrong(first[3:])), ("two", wrong(second))).json()

    assert (told["accepted"], told["images"], told["unknown"]) == (6, 6, [])
    assert told["accuracy"] == pytest.approx(3 / 6)
    assert told["recent_accuracy"] == pytest.approx(0.5, abs=0.01)
    assert (metric(api, "right"), metric(api, "wrong")) == (3, 3)


def test_the_source_model_is_judged_where_it_looked(api):
    first = api.infer(images(8), "s", "one")
    api.infer(images(8, 1), "s", "two")

    told = give(api, ("one", [int(label) for label in outputs(first)["labels"]]), ("two", [0] * 8)).json()

    agreement = first["parameters"]["tta_source_agreement"]
    assert told["source_accuracy"] == pytest.approx(agreement)
    assert told["images"] == 16


def test_unknown_and_repeated_requests_are_listed_and_change_nothing(api):
    labels = answered(api, 3, "one")
    first = give(api, ("one", labels), ("never", [0])).json()

    again = give(api, ("one", wrong(labels)), ("never", [0, 1])).json()

    assert (first["accepted"], first["unknown"]) == (3, ["never"])
    assert (again["accepted"], again["unknown"]) == (0, ["one", "never"])
    assert (again["images"], again["accuracy"]) == (3, 1.0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1], "2 labels, expected 3"),
        ([0, 1, 2, 3], "4 labels, expected 3"),
        ([0, 1, 10], "10 is no class"),
        ([0, 1, -1], "-1 is no class"),
        (["a", "b", "zebra"], "'zebra' is no class"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_all_that_came_with_them(api, labels, said):
    good = answered(api, 3, "good")
    answered(api, 3, "one", seed=1)

    refused = give(api, ("good", good), ("one", labels))

    assert_error(refused, 422, said)
    told = give(api, ("good", good)).json()
    assert (told["accepted"], told["images"], told["accuracy"]) == (3, 3, 1.0)


def test_a_request_that_is_given_twice_is_refused(api):
    labels = answered(api, 3, "one")

    assert_error(give(api, ("one", labels), ("one", wrong(labels))), 422, "given twice")


@pytest.mark.parametrize(
    "body",
    [{}, {"items": []}, {"items": [{"request": "r", "labels": []}]}, {"items": [{"request": "r", "labels": [1.5]}]}],
)
def test_bodies_of_another_form_are_refused(api, body):
    answered(api, 1, "r")

    assert api("POST", "/v1/streams/s/feedback", json=body).status_code == 422


def test_there_is_no_feedback_for_a_stream_that_is_not_there(api):
    assert_error(give(api, ("r", [0]), stream="nope"), 404, "there is no stream 'nope'")


def test_estimates_stand_beside_the_truth_with_their_errors(api):
    labels = answered(api, 8, "one")
    signals = api.stream("s")["signals"]

    told = give(api, ("one", labels[:2] + wrong(labels[2:]))).json()

    assert told["estimates"]["confidence"] == pytest.approx(signals["confidence"], abs=1e-6)
    assert told["errors"].keys() == told["estimates"].keys()
    for name, estimate in told["estimates"].items():
        assert told["errors"][name] == pytest.approx(estimate - 0.25)


def test_labels_show_in_the_streams_history(api):
    labels = answered(api, 4, "one")
    give(api, ("one", labels))
    answered(api, 4, "two", seed=1)

    history = api("GET", "/v1/streams/s/history").json()

    true = [point[history["columns"].index("true_accuracy")] for point in history["points"]]
    assert true == [None, 1.0]


def test_labels_are_taken_for_as_many_images_as_the_settings_say(bundles, tmp_path):
    with application(tmp_path, bundles[0], feedback_images=10) as api:
        labels = [answered(api, 4, f"r{number}", seed=number) for number in range(4)]

        told = give(api, *((f"r{number}", given) for number, given in enumerate(labels))).json()

    assert (told["accepted"], told["unknown"]) == (8, ["r0", "r1"])


def remembered(times, max_images=100, max_seconds=DAY):
    feedback = Feedback(max_images, max_seconds)
    for number, when in enumerate(times):
        feedback.remember(str(number), Answered(when, np.zeros(5, np.int32), None, {}))
    return feedback


def taken(feedback, count):
    return [feedback.label(str(number), np.zeros(5, np.int64)) for number in range(count)]


def test_answers_are_forgotten_after_days_even_where_nothing_new_comes(monkeypatch):
    feedback, now = remembered([time.monotonic(), time.monotonic() + DAY / 2]), time.monotonic()
    monkeypatch.setattr(feedback_module.time, "monotonic", lambda: now + DAY + 1)

    feedback.check({})

    assert taken(feedback, 2) == [False, True]


def test_no_answers_are_kept_where_none_may_be():
    assert taken(remembered([time.monotonic()] * 3, max_images=0), 3) == [False] * 3


def test_an_answer_larger_than_the_bound_takes_all_others_with_it_and_a_repeated_id_counts_once():
    feedback = remembered([time.monotonic()] * 2, max_images=10)
    for _ in range(5):
        feedback.remember("1", Answered(time.monotonic(), np.zeros(5, np.int32), None, {}))

    assert taken(feedback, 2) == [True, True]
    feedback.remember("large", Answered(time.monotonic(), np.zeros(11, np.int32), None, {}))
    assert not feedback.label("large", np.zeros(11, np.int64))


def test_the_recent_accuracy_follows_and_the_whole_one_does_not_forget():
    tally = Tally()
    tally.add(1000, 1000)
    for _ in range(50):
        tally.add(0, 50)

    assert tally.accuracy == pytest.approx(1000 / 3500)
    assert tally.recent == pytest.approx(0, abs=0.01)
    assert Tally().accuracy is None
