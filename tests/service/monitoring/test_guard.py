"""What a guard decides: every rule under every response, the gravest first."""

import math
from itertools import combinations

import pytest
from pydantic import ValidationError

from service.monitoring.guard import ACTIONS, Action, Policy, Verdicts, decide

FOUND = {
    "non_finite": {"finite_state": False},
    "collapse": {"collapse": "one class"},
    "harm": {"harm": "worse than the source"},
    "distance": {"distance": 0.6},
    "forgetting": {"source_gap": 0.2},
    "drift_ended": {"drift_ended": "inputs came back"},
}
"""By rule, the gravest first: what is seen where it applies."""
RULES = list(FOUND)
RESPONSES = ["off", *ACTIONS]
ALL_ON = dict.fromkeys(RULES, "skip")


def allowed(rule):
    return [response for response in RESPONSES if rule != "non_finite" or response != "off"]


@pytest.mark.parametrize(
    ("rule", "response"), [(rule, response) for rule in RULES for response in allowed(rule)], ids=lambda text: text
)
def test_each_rule_is_answered_as_the_policy_says(rule, response):
    decision = decide(Verdicts(**FOUND[rule]), Policy(**{rule: response}))

    if response == "off":
        assert (decision.action, decision.rule, decision.reason) == (Action.KEPT, "", "")
    else:
        assert (decision.action, decision.rule) == (ACTIONS[response], rule)
        assert decision.reason


@pytest.mark.parametrize("response", ACTIONS)
@pytest.mark.parametrize(("graver", "other"), list(combinations(RULES, 2)))
def test_of_two_rules_the_graver_one_decides(graver, other, response):
    policy = Policy(**{**ALL_ON, graver: response})

    decision = decide(Verdicts(**FOUND[graver], **FOUND[other]), policy)

    assert (decision.rule, decision.action) == (graver, ACTIONS[response])


@pytest.mark.parametrize(("graver", "other"), list(combinations(RULES[1:], 2)))
def test_a_rule_that_is_off_leaves_the_decision_to_the_next(graver, other):
    decision = decide(Verdicts(**FOUND[graver], **FOUND[other]), Policy(**{**ALL_ON, graver: "off"}))

    assert decision.rule == other


@pytest.mark.parametrize(
    ("steps", "action"), [(0, Action.KEPT), (9, Action.KEPT), (10, Action.RESET), (11, Action.RESET)]
)
def test_every_so_many_steps_a_stream_is_reset(steps, action):
    assert decide(Verdicts(steps=steps), Policy(every=10)).action is action


def test_every_comes_after_all_rules_and_0_is_never():
    for rule in RULES:
        assert decide(Verdicts(steps=10, **FOUND[rule]), Policy(every=10, **ALL_ON)).rule == rule
    assert decide(Verdicts(steps=10**6), Policy()).action is Action.KEPT


@pytest.mark.parametrize(
    ("answer", "state", "said"), [(False, True, "answer"), (True, False, "state"), (False, False, "state")]
)
def test_the_reason_names_what_is_not_finite(answer, state, said):
    decision = decide(Verdicts(finite_answer=answer, finite_state=state), Policy())

    assert decision.reason == f"the step's {said} held NaN or infinity"
    assert decision.action is Action.SKIPPED


@pytest.mark.parametrize(("gap", "rule"), [(None, ""), (-0.5, ""), (0.1, ""), (0.1001, "forgetting")])
def test_forgetting_is_what_exceeds_the_budget(gap, rule):
    assert decide(Verdicts(source_gap=gap), Policy(forgetting="skip", budget=0.1)).rule == rule


@pytest.mark.parametrize(
    ("distance", "rule"),
    [(None, ""), (0.0, ""), (0.3, ""), (0.30001, "distance"), (math.inf, "distance"), (math.nan, "")],
)
def test_distance_is_what_exceeds_the_allowed_one(distance, rule):
    assert decide(Verdicts(distance=distance), Policy(distance="skip", max_distance=0.3)).rule == rule


def test_a_state_that_is_not_finite_is_that_however_far_it_is():
    verdicts = Verdicts(finite_state=False, distance=math.nan)

    assert decide(verdicts, Policy(distance="reset")).rule == "non_finite"


def test_the_reason_tells_the_distance_and_the_allowed_one():
    decision = decide(Verdicts(distance=0.12345), Policy(distance="skip", max_distance=0.0005))

    assert decision.reason == "the learned parameters are 12.3 % from the source's, allowed are 0.05 %"


def test_by_default_collapse_and_harm_lead_back_and_drift_and_forgetting_are_told_alone():
    actions = {rule: decide(Verdicts(**seen), Policy()).action for rule, seen in FOUND.items()}

    assert actions == {
        "non_finite": Action.SKIPPED,
        "collapse": Action.ROLLED_BACK,
        "harm": Action.ROLLED_BACK,
        "distance": Action.KEPT,
        "forgetting": Action.KEPT,
        "drift_ended": Action.KEPT,
    }


def test_nothing_found_is_kept_under_any_policy():
    assert decide(Verdicts(), Policy(**ALL_ON, every=10)).action is Action.KEPT


@pytest.mark.parametrize(
    "wrong",
    [
        {"non_finite": "off"},
        {"collapse": "explode"},
        {"budget": 0},
        {"every": -1},
        {"pause": -1},
        {"max_distance": 0},
        {"max_distance": math.nan},
        {"max_distance": 11},
        {"more": 1},
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        Policy(**wrong)
