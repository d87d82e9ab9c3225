"""Which alarms of a stream are told, when, and as what."""

from service.monitoring.alarm_merging import MERGED_SECONDS, Merging
from service.monitoring.detectors import Alarm


def alarm(signal="drift", before=0.01, now=1.0):
    return Alarm(signal, "page_hinkley", {"before": before, "now": now, "statistic": 2.0, "limit": 1.5})


def test_alarms_of_one_request_are_one_event():
    told = Merging().drift([alarm(), alarm("entropy", 0.1, 0.6)], 1000.0)

    assert (told.kind, told.reason) == ("drift", "drift rose from 0.01 to 1; entropy rose from 0.1 to 0.6")


def test_alarms_within_a_minute_of_the_last_event_wait_and_are_told_together():
    merging = Merging()

    first = merging.drift([alarm()], 1000.0)
    during = [
        merging.drift([each], 1010.0) for each in (alarm(now=2.0), alarm("drift", 2.0, 5.0), alarm("entropy", 0.1, 0.6))
    ]
    after = merging.drift([], 1000.0 + MERGED_SECONDS)

    assert first is not None
    assert during == [None] * 3
    assert after.reason == "drift rose from 0.01 to 5; entropy rose from 0.1 to 0.6"
    assert merging.drift([], 2000.0) is None


def test_an_agreement_that_falls_never_waits():
    merging = Merging()
    merging.drift([alarm()], 1000.0)

    assert merging.drift([alarm("agreement", 0.9, 0.2)], 1001.0).kind == "drift"


def test_what_is_below_the_floor_of_relevance_is_not_told():
    small = [alarm(before=0.001, now=0.05), alarm("entropy", 0.02, 0.05), alarm("source_entropy", 0.0244, 0.00198)]

    assert Merging().drift(small, 1000.0) is None


def test_a_fall_of_drift_is_told_without_alarm():
    assert Merging().drift([alarm(before=1.0, now=0.01)], 1000.0).kind == "settled"
    assert Merging().drift([alarm("agreement", 0.3, 0.9)], 1000.0).kind == "settled"
    assert Merging().drift([alarm("entropy", 0.9, 0.1)], 1000.0).kind == "drift"  # it may be overconfidence
    assert Merging().drift([alarm(before=1.0, now=0.01), alarm("entropy", 0.1, 0.9)], 1000.0).kind == "drift"


def test_a_clock_that_was_set_back_silences_nobody():
    merging = Merging()
    merging.drift([alarm()], 1e9)

    assert merging.drift([alarm()], 1000.0) is not None
    assert merging.notices("seen", 1e9)
    assert merging.notices("seen", 1000.0)


def test_a_finding_that_no_guard_acts_on_is_told_once_a_minute():
    merging = Merging()

    assert [merging.notices("seen", 1000.0 + seconds) for seconds in (0, 1, 59, 60, 61)] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_each_kind_of_finding_is_told_once_a_minute_whatever_the_others_do():
    merging = Merging()

    assert [merging.notices(kind, 1000.0) for kind in ("seen", "agreement", "seen", "source_gap")] == [
        True, True, False, True,
    ]  # fmt: skip
