"""What a request that fails puts back: every field of a stream that is not declared to stay."""

from contextlib import suppress
from dataclasses import fields

import pytest

from service.models.bundle import read_bundle
from service.models.hosted import host
from service.streams.idempotency import RetryLog
from service.streams.stream import KEPT_ON_FAILURE, Stream, initial_state
from tests.bundles import FACTORY, torch_bundle

OF_WHAT_WAS_LEARNED = {"signals", "monitored", "source_check", "probe", "features", "shadow", "good", "retries"}
"""Fields that a state which does not follow from the last one makes untrue."""


@pytest.fixture
def stream(tmp_path):
    model = host(read_bundle(torch_bundle(tmp_path / "reference")), (FACTORY,), 1)
    fitted = model.fit("batch+tent", {})
    return Stream("s", model, fitted, initial_state(model, fitted), RetryLog(2, 1000))


def test_every_field_that_is_not_declared_to_stay_is_put_back_after_a_failure(stream):
    names = [each.name for each in fields(Stream)]
    before = {name: getattr(stream, name) for name in names}

    with suppress(RuntimeError), stream.unchanged_on_failure():
        for name in names:
            setattr(stream, name, object())
        raise RuntimeError

    kept = {name for name in names if getattr(stream, name) is not before[name]}
    assert kept == KEPT_ON_FAILURE


def test_a_reset_that_fails_leaves_what_was_learned_and_said_of_it(stream):
    names = sorted(OF_WHAT_WAS_LEARNED | {"state"})
    before = {name: object() for name in names if name not in ("good", "retries", "state")}
    for name, value in before.items():
        setattr(stream, name, value)
    before |= {name: getattr(stream, name) for name in ("good", "retries", "state")}

    with suppress(RuntimeError), stream.unchanged_on_failure():
        stream.begin_again(stream.initial())
        assert all(getattr(stream, name) is not before[name] for name in names)
        raise RuntimeError

    assert all(getattr(stream, name) is before[name] for name in names)
