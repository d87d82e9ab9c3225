"""The wall clock jumps by a year, either way: nothing is lost or stops, and only a clock that stands is believed."""

import asyncio
import time

import pytest

from service.serving import overview, stream_cache
from service.storage import event_log, recorder
from service.storage.backends import garbage
from service.streams import stream
from service.support import clock as clock_module
from service.support.clock import SMALL_SECONDS, STAND_SECONDS, SURE_SECONDS, Clock
from tests.applications import application
from tests.bundles import torch_bundle
from tests.serving import images
from tests.stored import rest, wait

YEAR = 365 * 86_400.0
READERS = (clock_module, event_log, garbage, recorder, stream_cache, stream, overview)


class Times:
    """Both clocks, by hand."""

    def __init__(self, wall=1.7e9, steady=100.0):
        self.wall, self.steady = wall, steady
        self.clock = Clock(lambda: self.wall, lambda: self.steady)

    def go_on(self, seconds, jump=0.0):
        self.steady += seconds
        self.wall += seconds + jump


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture
def jumps(monkeypatch):
    """Let the process's clock read a wall clock that the returned function moves."""
    ahead = [0.0]
    made = Clock(lambda: time.time() + ahead[0])
    for module in READERS:
        monkeypatch.setattr(module, "CLOCK", made)

    def jump(seconds):
        ahead[0] += seconds

    return jump


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 2 * SMALL_SECONDS])
def test_a_jump_is_believed_once_it_has_stood_and_nothing_is_removed_for_long_after(jump):
    times = Times()
    times.go_on(SURE_SECONDS)
    assert times.clock.is_sure()

    times.go_on(1, jump)
    assert times.clock.now() == 1.7e9 + SURE_SECONDS + 1
    assert not times.clock.is_sure()
    times.go_on(STAND_SECONDS)
    assert times.clock.now() == times.wall
    assert not times.clock.is_sure()
    times.go_on(SURE_SECONDS)
    assert times.clock.is_sure()


def test_a_jump_that_is_taken_back_is_never_believed():
    times = Times()
    for _ in range(20):
        times.go_on(STAND_SECONDS / 2, YEAR)
        before = times.clock.now()
        times.go_on(STAND_SECONDS / 2, -YEAR)
        assert times.clock.now() == before + STAND_SECONDS / 2
    assert not times.clock.is_sure()


def test_a_clock_that_is_set_right_by_a_little_is_believed_at_once():
    times = Times()
    times.go_on(10, SMALL_SECONDS / 2)

    assert times.clock.now() == times.wall


def test_a_new_process_is_not_sure_of_the_time():
    assert not Times().clock.is_sure()


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_jumps_ends_no_stream_and_stops_no_checkpoints(bundle, tmp_path, jumps, jump):
    with application(tmp_path, bundle, end_after_days=30.0, period_seconds=0.2, rest_after_seconds=1000.0) as api:
        for name in ("rests", "awake"):
            api.infer(images(2), name)
        wait(api, lambda: api.stream("rests")["durable_generation"] == 1)
        rest(api, "rests")
        jumps(jump)
        api._runner.run(asyncio.sleep(1.2))  # longer than between two looks for streams to end
        api.infer(images(2, 1), "awake")
        wait(api, lambda: api.stream("awake")["durable_generation"] >= 2)

        assert api.ids() == ["awake", "rests"]
        assert api.stream("rests")["generation"] == 1
        assert "awake" not in api.app.state.services.residence.table.resting
        assert abs(api.stream("awake")["last_used"] - time.time()) < 60


def test_a_start_under_a_wrong_clock_ends_no_stream(bundle, tmp_path, jumps):
    with application(tmp_path, bundle, end_after_days=30.0) as api:
        api.infer(images(2), "s")
    jumps(YEAR)
    with application(tmp_path, bundle, end_after_days=30.0) as api:
        api._runner.run(asyncio.sleep(1.2))
        assert api.stream("s")["generation"] == 1
