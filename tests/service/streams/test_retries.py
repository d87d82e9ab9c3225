"""The log of answered requests: what a retry gets, and how much is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConflictError
from service.streams.idempotency import Answered, RequestIdentity, RetryLog
from service.types import InferResponse


def response(request_id, size_bytes=8):
    outputs = {
        "logits": np.zeros(size_bytes // 2, np.uint8),
        "labels": np.zeros(size_bytes - size_bytes // 2, np.uint8),
    }
    return InferResponse("m", "1", request_id, {"tta_generation": 1}, outputs)


def add(log, answer, key="", digest="digest"):
    return log.with_answer(Answered(RequestIdentity(answer.id, key, digest), answer))


def kept(log, ids):
    return [request_id for request_id in ids if log.find(RequestIdentity(request_id, "", "digest")) is not None]


def test_the_same_id_and_body_give_the_first_answer_itself():
    first = response("a")
    log = add(RetryLog(4, 1000), first)

    assert log.find(RequestIdentity("a", "", "digest")) is first
    assert log.find(RequestIdentity("a", "", "digest")) is first


def test_a_log_with_one_more_answer_leaves_the_log_before_it_as_it_was():
    before = add(RetryLog(1, 1000), response("a"))

    after = add(before, response("b"))

    assert (kept(before, "ab"), kept(after, "ab")) == (["a"], ["b"])


def test_the_same_id_with_another_body_is_new_and_both_are_kept():
    first, second = response("a"), response("a")
    log = add(add(RetryLog(4, 1000), first), second, digest="another")

    assert log.find(RequestIdentity("a", "", "a third")) is None
    assert log.find(RequestIdentity("a", "", "digest")) is first
    assert log.find(RequestIdentity("a", "", "another")) is second


def test_an_id_that_is_held_with_another_body_is_a_conflict_that_names_the_id_and_forgets_nothing():
    first, second = response("a"), response("a")
    log = add(add(RetryLog(4, 1000), first), second, digest="another")

    with pytest.raises(ConflictError, match="request id 'a' was used for another body; expected a new id"):
        log.find(RequestIdentity("a", "", "a third"), held=True)

    assert log.find(RequestIdentity("a", "", "digest"), held=True) is first
    assert log.find(RequestIdentity("a", "", "another"), held=True) is second
    assert log.find(RequestIdentity("b", "", "a third"), held=True) is None


def test_a_key_alone_decides_whether_a_request_is_a_retry():
    one, other, plain = response("a"), response("a"), response("b")
    log = add(add(add(RetryLog(8, 1000), one, "k1"), other, "k2"), plain)

    assert log.find(RequestIdentity("a", "k1", "digest")) is one
    assert log.find(RequestIdentity("c", "k2", "digest")) is other
    assert log.find(RequestIdentity("b", "k3", "digest")) is None
    assert log.find(RequestIdentity("b", "", "digest")) is plain
    with pytest.raises(ConflictError, match="the Idempotency-Key 'k1' was used for another body; expected a new key"):
        log.find(RequestIdentity("a", "k1", "another"))


def test_a_held_id_is_held_under_another_key_too():
    first = response("a")
    log = add(RetryLog(8, 1000), first, "k1")

    assert log.find(RequestIdentity("a", "k2", "digest"), held=True) is first
    with pytest.raises(ConflictError, match="request id 'a'"):
        log.find(RequestIdentity("a", "k2", "another"), held=True)


@pytest.mark.parametrize("held", [False, True])
def test_what_has_left_the_log_is_neither_a_retry_nor_a_conflict(held):
    log = add(add(RetryLog(2, 1000), response("a"), "k1"), response("a"), digest="another")
    for digest in ("b1", "b2"):
        log = add(log, response("b"), digest=digest)

    assert log.find(RequestIdentity("a", "k1", "a third"), held=held) is None
    assert log.find(RequestIdentity("a", "", "digest"), held=held) is None


def test_an_id_not_seen_is_new_whatever_its_body():
    log = add(RetryLog(4, 1000), response("a"))

    assert log.find(RequestIdentity("b", "", "digest")) is None
    assert log.find(RequestIdentity("", "", "digest")) is None


def test_the_oldest_answers_leave_first_when_there_are_too_many():
    log = RetryLog(3, 1000)

    for request_id in "abcde":
        log = add(log, response(request_id))

    assert kept(log, "abcde") == ["c", "d", "e"]
    assert len(log.kept) == 3


def test_the_oldest_answers_leave_first_when_they_hold_too_many_bytes():
    log = RetryLog(100, 100)

    for request_id in "abcd":
        log = add(log, response(request_id, 40))

    assert kept(log, "abcd") == ["c", "d"]


def test_an_answer_that_fills_the_byte_cap_exactly_is_kept_and_one_byte_more_is_not():
    exact, beyond = add(RetryLog(4, 100), response("a", 100)), add(RetryLog(4, 100), response("a", 101))

    assert kept(exact, "a") == ["a"]
    assert kept(beyond, "a") == []
    assert len(beyond.kept) == 0


def test_after_an_answer_beyond_the_byte_cap_the_log_goes_on():
    log = add(RetryLog(4, 100), response("large", 5000))

    for request_id in "ab":
        log = add(log, response(request_id, 50))

    assert kept(log, ["large", "a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(("entries", "size_bytes"), [(0, 1000), (4, 0)], ids=["no_entries", "no_bytes"])
def test_a_bound_of_zero_keeps_nothing(entries, size_bytes):
    log = add(RetryLog(entries, size_bytes), response("a"))

    assert len(log.kept) == 0


def test_a_forgotten_id_may_be_used_for_another_body():
    log = add(add(RetryLog(1, 1000), response("a")), response("b"))

    assert log.find(RequestIdentity("a", "", "another")) is None


def test_a_request_added_again_holds_the_latest_answer_once():
    latest = response("a", 60)

    log = add(add(RetryLog(4, 100), response("a", 60)), latest)

    assert log.find(RequestIdentity("a", "", "digest")) is latest
    assert (len(log.kept), log.size_bytes) == (1, 60)


def test_an_emptied_log_has_no_answers_and_their_bytes_again():
    log = RetryLog(4, 100)
    for _ in range(3):
        log = add(log, response("a", 90)).emptied()
        assert len(log.kept) == 0

    log = add(log, response("b", 90))

    assert kept(log, "ab") == ["b"]


@given(
    sizes=st.lists(st.integers(0, 60), max_size=40),
    entries=st.integers(0, 10),
    size_bytes=st.integers(0, 150),
    cleared=st.sets(st.integers(0, 39), max_size=3),
)
@settings(deadline=None, derandomize=True, database=None)
def test_the_log_holds_the_longest_run_of_latest_answers_within_its_bounds(sizes, entries, size_bytes, cleared):
    log, since_clear = RetryLog(entries, size_bytes), []

    for number, size in enumerate(sizes):
        if number in cleared:
            log = log.emptied()
            since_clear = []
        log = add(log, response(str(number), size))
        since_clear.append((str(number), size))

    fitting = []
    for request_id, size in reversed(since_clear):
        if len(fitting) == entries or sum(s for _, s in fitting) + size > size_bytes:
            break
        fitting.append((request_id, size))
    expected = [request_id for request_id, _ in reversed(fitting)]
    found = kept(log, [str(number) for number in range(len(sizes))])
    assert found[len(found) - len(expected) :] == expected
    assert sum(sizes[int(request_id)] for request_id in found) == log.size_bytes <= size_bytes
    assert len(found) == len(log.kept) <= entries
