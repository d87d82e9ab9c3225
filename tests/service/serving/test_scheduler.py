"""Turns: order within a stream, bounds, deadlines, callers that go away, draining, and jobs that fail."""

import asyncio
import sys
import threading
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.errors import BusyError, ConflictError, DeadlineError, FailedError, SaturatedError, UnfitError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.worker import SWITCH_SECONDS, Worker
from service.serving.admission import Admission
from service.serving.scheduler import Scheduler
from service.serving.stream_batching import Groups
from service.storage.store_calls import StoreCalls
from service.streams.stream import Stream
from service.streams.value import Config, first_value
from service.telemetry.metrics import Telemetry
from tests.bundles import FACTORY, torch_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return host(read_bundle(torch_bundle(tmp_path_factory.mktemp("model") / "bundle")), [FACTORY], 1)


@pytest.fixture
def stream(model):
    """Make streams by id."""

    def make(stream_id):
        return Stream(stream_id, first_value(Config(model, model.default)))

    return make


class Running:
    """A scheduler under test, with a job that holds the worker until it is let go."""

    def __init__(self, scheduler, worker, telemetry):
        self.scheduler, self.worker, self.telemetry = scheduler, worker, telemetry
        self.began, self.released = threading.Event(), threading.Event()
        self.log = []

    def submit(self, stream, job):
        return asyncio.ensure_future(self.scheduler.submit(stream, job))

    def job(self, name):
        def run():
            self.log.append(name)
            return name

        return run

    def holding(self, name="held"):
        def run():
            self.began.set()
            assert self.released.wait(10)
            self.log.append(name)
            return name

        return run

    async def hold(self, stream, name="held"):
        """Submit a job that holds the worker, and return once it runs."""
        task = self.submit(stream, self.holding(name))
        assert await asyncio.to_thread(self.began.wait, 10)
        return task

    @property
    def depth(self):
        return self.telemetry.registry.get_sample_value("acclimate_queue_depth_requests")

    @property
    def waits(self):
        return self.telemetry.registry.get_sample_value("acclimate_queue_duration_seconds_count")


@asynccontextmanager
async def running(*, max_queue=100, max_queue_per_stream=50, deadline_seconds=30.0):
    worker, telemetry = Worker(1), Telemetry()
    admission = Admission(telemetry, max_queue=max_queue, max_queue_per_stream=max_queue_per_stream)
    groups, store = Groups(64, telemetry), StoreCalls()
    scheduler = Scheduler(worker, admission, telemetry, groups, store, deadline_seconds=deadline_seconds)
    made = Running(scheduler, worker, telemetry)
    try:
        yield made
    finally:
        made.released.set()
        assert await made.scheduler.admission.drain(10)
        assert made.depth == 0
        worker.close()


def test_jobs_of_one_stream_run_in_the_order_in_which_they_came(stream):
    async def scenario():
        async with running() as run:
            one = stream("one")
            held = await run.hold(one)
            tasks = [run.submit(one, run.job(number)) for number in range(30)]
            await asyncio.sleep(0)
            run.released.set()
            return await held, await asyncio.gather(*tasks), run.log

    first, answers, log = asyncio.run(scenario())

    assert first == "held"
    assert answers == list(range(30))
    assert log == ["held", *range(30)]


@given(arrivals=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
@settings(deadline=None, derandomize=True, database=None, max_examples=40)
def test_any_order_of_arrival_keeps_each_streams_order_and_loses_no_job(model, arrivals):
    async def scenario():
        async with running() as run:
            value = first_value(Config(model, model.default))
            streams = {name: Stream(name, value) for name in "abc"}
            tasks = []
            for number, (name, waits) in enumerate(arrivals):
                tasks.append(run.submit(streams[name], run.job((name, number))))
                if waits:
                    await asyncio.sleep(0)
            return await asyncio.gather(*tasks), run.log

    answers, log = asyncio.run(scenario())

    assert answers == [(name, number) for number, (name, _) in enumerate(arrivals)]
    by_stream = defaultdict(list)
    for name, number in log:
        by_stream[name].append(number)
    assert sorted(log, key=lambda entry: entry[1]) == answers
    assert all(numbers == sorted(numbers) for numbers in by_stream.values())


def test_a_stream_that_sends_too_much_is_refused_and_others_are_not(stream):
    async def scenario():
        async with running(max_queue_per_stream=3) as run:
            busy, other = stream("busy"), stream("other")
            held = await run.hold(busy)
            accepted = [run.submit(busy, run.job(number)) for number in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="3 requests of stream 'busy' wait, as many as allowed"):
                await run.scheduler.submit(busy, run.job("refused"))
            beside = run.submit(other, run.job("beside"))
            await asyncio.sleep(0)
            assert (busy.waiting, other.waiting, run.depth) == (3, 1, 4)
            run.released.set()
            await asyncio.gather(held, *accepted, beside)
            assert (busy.waiting, other.waiting, run.depth) == (0, 0, 0)
            again = await run.scheduler.submit(busy, run.job("again"))
            return again, run.log

    again, log = asyncio.run(scenario())

    assert again == "again"
    assert "refused" not in log
    assert [entry for entry in log if entry != "beside"] == ["held", 0, 1, "again"]


def test_a_full_server_refuses_every_stream_until_a_job_is_done(stream):
    async def scenario():
        async with running(max_queue=2) as run:
            held = await run.hold(stream("a"))
            waits = run.submit(stream("b"), run.job("b"))
            await asyncio.sleep(0)
            late = stream("c")
            with pytest.raises(SaturatedError, match="2 requests wait, as many as allowed"):
                await run.scheduler.submit(late, run.job("refused"))
            assert late.waiting == 0
            run.released.set()
            await asyncio.gather(held, waits)
            await run.scheduler.submit(late, run.job("c"))
            return run.log

    assert asyncio.run(scenario()) == ["held", "b", "c"]


def test_the_deadline_covers_waiting_for_the_worker_that_another_stream_holds(stream):
    async def scenario():
        async with running(deadline_seconds=0.05) as run:
            held = await run.hold(stream("a"))
            late = run.submit(stream("b"), run.job("late"))
            with pytest.raises(DeadlineError, match="nothing was changed"):
                await late
            run.released.set()
            await held
            assert run.log == ["held"]

    asyncio.run(scenario())


def test_a_turn_that_does_not_come_in_time_is_a_deadline_and_its_job_never_runs(stream):
    async def scenario():
        async with running(deadline_seconds=0.05) as run:
            one = stream("one")
            held = await run.hold(one)
            with pytest.raises(
                DeadlineError, match=r"stream 'one' is busy: no turn within 0\.05 s; nothing was changed"
            ):
                await run.scheduler.submit(one, run.job("late"))
            assert (one.waiting, run.depth) == (1, 1)
            run.released.set()
            await held
            await run.scheduler.submit(one, run.job("next"))
            assert run.waits == 3
            return run.log

    assert asyncio.run(scenario()) == ["held", "next"]


def test_a_step_that_has_begun_is_finished_however_long_it_takes(stream):
    async def scenario():
        async with running(deadline_seconds=0.01) as run:
            one = stream("one")
            held = await run.hold(one)
            with pytest.raises(DeadlineError):
                await run.scheduler.submit(one, run.job("late"))
            run.released.set()
            return await held

    assert asyncio.run(scenario()) == "held"


def test_the_job_of_a_caller_who_goes_away_is_finished_and_keeps_its_place(stream):
    async def scenario():
        async with running() as run:
            one = stream("one")
            held = await run.hold(one)
            behind = run.submit(one, run.job("behind"))
            await asyncio.sleep(0)
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            assert (one.waiting, run.depth, run.log) == (2, 2, [])
            run.released.set()
            await behind
            return run.log

    assert asyncio.run(scenario()) == ["held", "behind"]


def test_a_caller_who_goes_away_before_its_turn_does_not_disturb_the_others(stream):
    async def scenario():
        async with running() as run:
            one = stream("one")
            held = await run.hold(one)
            gone, behind = (run.submit(one, run.job(name)) for name in ("gone", "behind"))
            await asyncio.sleep(0)
            gone.cancel()
            run.released.set()
            await asyncio.gather(held, behind)
            return run.log, one.waiting, run.depth

    log, waiting, depth = asyncio.run(scenario())

    assert [name for name in log if name != "gone"] == ["held", "behind"]
    assert log.index("behind") == len(log) - 1
    assert waiting == depth == 0


def test_a_failing_job_whose_caller_has_gone_is_logged_and_nothing_else_breaks(stream):
    async def scenario():
        async with running() as run:
            one = stream("one")

            def fails():
                run.holding()()
                raise RuntimeError("inside")

            task = run.submit(one, fails)
            await asyncio.to_thread(run.began.wait, 10)
            task.cancel()
            run.released.set()
            return await run.scheduler.submit(one, run.job("next"))

    with capture_logs() as logs:
        assert asyncio.run(scenario()) == "next"

    assert [(entry["event"], entry["stream"]) for entry in logs] == [("job_failed", "one")]


def test_draining_waits_for_what_is_under_way_and_refuses_what_comes(stream):
    async def scenario():
        async with running() as run:
            one = stream("one")
            held = await run.hold(one)
            behind = run.submit(one, run.job("behind"))
            await asyncio.sleep(0)
            drained = asyncio.ensure_future(run.scheduler.admission.drain(10))
            await asyncio.sleep(0)
            with pytest.raises(SaturatedError, match="the server is stopping and takes no new requests"):
                await run.scheduler.submit(stream("new"), run.job("refused"))
            assert not drained.done()
            run.released.set()
            assert await drained
            assert held.done()
            assert behind.done()
            return run.log

    assert asyncio.run(scenario()) == ["held", "behind"]


def test_draining_gives_up_in_time_and_says_so(stream):
    async def scenario():
        async with running() as run:
            held = await run.hold(stream("one"))
            in_time = await run.scheduler.admission.drain(0.02)
            run.released.set()
            return in_time, await held, await run.scheduler.admission.drain(10)

    assert asyncio.run(scenario()) == (False, "held", True)


def test_an_idle_server_is_drained_at_once():
    async def scenario():
        async with running() as run:
            return await run.scheduler.admission.drain(5)

    assert asyncio.run(scenario()) is True


@pytest.mark.parametrize(
    "error", [RuntimeError, ValueError, TimeoutError, MemoryError], ids=lambda error: error.__name__
)
def test_what_a_job_raises_becomes_a_failure_that_names_the_stream_and_keeps_the_details_in_the_log(stream, error):
    def fails():
        raise error("a secret of the model")

    async def scenario():
        async with running() as run:
            one = stream("one")
            with pytest.raises(FailedError) as caught:
                await run.scheduler.submit(one, fails)
            return str(caught.value), await run.scheduler.submit(one, run.job("next")), one.waiting, run.depth

    with capture_logs() as logs:
        said, following, waiting, depth = asyncio.run(scenario())

    assert said == f"stream 'one' could not be served: {error.__name__}; the stream is as it was"
    assert (following, waiting, depth) == ("next", 0, 0)
    assert logs[0]["stream"] == "one"
    assert "a secret" in str(logs[0]["exc_info"])


@pytest.mark.parametrize("error", [UnfitError, ConflictError], ids=lambda error: error.__name__)
def test_a_refusal_by_a_job_reaches_the_caller_as_it_is_and_is_no_failure(stream, error):
    def refuses():
        raise error("expected another")

    async def scenario():
        async with running() as run:
            one = stream("one")
            with pytest.raises(error, match=r"^expected another$"):
                await run.scheduler.submit(one, refuses)
            return await run.scheduler.submit(one, run.job("next"))

    with capture_logs() as logs:
        assert asyncio.run(scenario()) == "next"

    assert logs == []


def test_the_queue_depth_rises_with_every_job_and_returns_to_zero(stream):
    async def scenario():
        async with running() as run:
            depths = [run.depth]
            held = await run.hold(stream("one"))
            tasks = []
            for number in range(3):
                tasks.append(run.submit(stream(f"s{number}"), run.job(number)))
                await asyncio.sleep(0)
                depths.append(run.depth)
            run.released.set()
            await asyncio.gather(held, *tasks)
            return [*depths, run.depth], run.waits

    assert asyncio.run(scenario()) == ([0, 2, 3, 4, 0], 4)


def test_the_worker_runs_one_job_at_a_time_on_one_thread_of_its_own(stream):
    async def scenario():
        async with running() as run:
            inside, most = [], []

            def job():
                inside.append(None)
                most.append(len(inside))
                inside.pop()
                return threading.current_thread().name, torch.get_num_threads()

            answers = await asyncio.gather(*(run.submit(stream(f"s{number}"), job) for number in range(20)))
            return set(answers), max(most)

    (told,), most = asyncio.run(scenario())

    assert told[0].startswith("worker")
    assert told[1] == most == 1


def test_a_closing_worker_finishes_what_was_handed_in():
    async def scenario():
        worker, done = Worker(1), []
        tasks = [asyncio.ensure_future(worker.run(lambda number=number: done.append(number))) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(worker.close)
        await asyncio.gather(*tasks)
        return done

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


def test_the_event_loop_waits_little_for_the_worker():
    worker = Worker(1)
    assert asyncio.run(worker.run(sys.getswitchinterval)) == pytest.approx(SWITCH_SECONDS)
    worker.close()
