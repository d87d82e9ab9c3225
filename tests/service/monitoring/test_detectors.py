"""Which changes of a stream's signals are told, by which detector, and which are not."""

import math

import pytest
import torch

from adapters.state import flatten, is_finite, unflatten
from service.monitoring import detectors
from service.monitoring.detectors import Readings

STEADY = {
    "entropy": 0.2, "prior_distance": 0.05, "drift": 0.01, "step": 1e-3, "agreement": 0.95, "source_entropies": 0.2,
}  # fmt: skip
USUAL = torch.linspace(0, 0.4, 101)


def readings(noise, **changed):
    values = {**STEADY, **changed}
    spread = torch.linspace(-1, 1, 16) * values["source_entropies"]
    return Readings(
        entropy=values["entropy"] * (1 + 0.05 * noise),
        prior_distance=values["prior_distance"] * (1 + 0.05 * noise),
        drift=values["drift"] * math.exp(0.05 * noise),
        step=None if values["step"] is None else values["step"] * math.exp(0.2 * noise),
        agreement=min(values["agreement"] * (1 + 0.03 * noise), 1.0),
        source_entropies=values["source_entropies"] + spread,
        usual=USUAL,
    )


def run(requests, state=None, seed=0, **changed):
    """Return the state after some requests of these signals, and the alarms with their numbers."""
    generator = torch.Generator().manual_seed(seed)
    state, told = state or detectors.init(), []
    for number in range(requests):
        state, alarms = detectors.update(state, readings(float(torch.randn((), generator=generator)), **changed))
        told += [(number, alarm) for alarm in alarms]
    return state, told


@pytest.mark.parametrize("seed", range(3))
def test_steady_signals_are_never_told(seed):
    assert run(2000, seed=seed)[1] == []


@pytest.mark.parametrize(
    ("changed", "signal", "detector", "rose", "within"),
    [
        ({"entropy": 0.6}, "entropy", "adwin", True, 64),
        ({"prior_distance": 0.6}, "prior_distance", "adwin", True, 64),
        ({"drift": 1.0}, "drift", "page_hinkley", True, 8),
        ({"agreement": 0.4}, "agreement", "adwin", False, 64),
        ({"step": 0.1}, "parameter_distance", "page_hinkley", True, 16),
        ({"source_entropies": 1.5}, "source_entropy", "betting", True, 16),
    ],
)
def test_a_change_of_each_signal_is_told_once_by_its_own_detector(changed, signal, detector, rose, within):
    state, _ = run(200)

    _, told = run(100, state, seed=1, **changed)

    assert [(alarm.signal, alarm.detector, alarm.rose) for _, alarm in told] == [(signal, detector, rose)]
    number, alarm = told[0]
    assert number < within
    assert alarm.figures["statistic"] > alarm.figures["limit"]


def test_what_a_step_moves_is_told_as_such():
    _, told = run(30, run(200)[0], step=0.1)

    assert told[0][1].reason.startswith("parameter_distance per step rose from 0.000993 to")


def test_steps_that_grow_shorter_or_stop_are_not_told():
    state, told = detectors.init(), []
    for number in range(500):
        step = 1e-2 / (1 + number) if number % 3 else None
        state, alarms = detectors.update(state, readings(0.0, step=step))
        told += alarms

    assert told == []


def test_values_that_are_not_finite_change_nothing():
    state, _ = run(50)
    broken = Readings(math.nan, math.nan, math.inf, math.nan, None, torch.full((4,), math.nan), USUAL)

    after, alarms = detectors.update(state, broken)

    assert alarms == ()
    assert is_finite(after)
    before = flatten(state)
    assert [name for name, tensor in flatten(after).items() if not torch.equal(tensor, before[name])] == []


def test_without_a_look_what_needs_one_waits():
    state, _ = run(50)
    unlooked = Readings(0.2, 0.05, 0.01, 1e-3, None, None, USUAL)

    after, _ = detectors.update(state, unlooked)

    assert torch.equal(after.agreement.width, state.agreement.width)
    assert torch.equal(after.source_entropy.log_wealth, state.source_entropy.log_wealth)
    assert int(after.entropy.width) == int(state.entropy.width) + 1


def test_a_stream_that_went_back_is_watched_anew_but_its_inputs_are_not():
    state, _ = run(50, source_entropies=1.5)

    begun = detectors.begun_again(state)

    assert int(begun.entropy.width) == int(begun.agreement.width) == int(begun.step.count) == 0
    assert int(begun.drift.count) == int(state.drift.count) == 50
    assert int(begun.silent) == int(state.silent) > 0


def test_a_state_survives_as_named_tensors():
    state, _ = run(40)

    again = unflatten(detectors.init(), {name: tensor.clone() for name, tensor in flatten(state).items()})

    one, other = flatten(run(40, again, seed=1)[0]), flatten(run(40, state, seed=1)[0])
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
