"""Turns: which stream's job is next, what happens to the place of a job that is refused, and who shares the worker."""

import asyncio
import math

import pytest

from service.errors import DeadlineError
from service.models.bundle import read_bundle
from service.models.hosted import host
from tests.bundles import FACTORY, torch_bundle
from tests.holding import begin, running


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return host(read_bundle(torch_bundle(tmp_path_factory.mktemp("model") / "bundle")), [FACTORY], 1)


def submit(run, stream, name, by=math.inf):
    return asyncio.ensure_future(run.scheduler.submit(stream, lambda: run.order.append(name), by=by))


def test_a_stream_with_many_jobs_takes_turns_with_the_others(model):
    async def scenario():
        async with running() as run:
            busy, other, third = (begin(model, name) for name in ("busy", "other", "third"))
            held = await run.hold(begin(model, "holds"))
            jobs = [submit(run, busy, f"busy{number}") for number in range(3)]
            jobs += [submit(run, other, f"other{number}") for number in range(2)]
            jobs += [submit(run, third, "third0")]
            await asyncio.sleep(0)
            run.released.set()
            await asyncio.gather(held, *jobs)
            return run.order

    assert asyncio.run(scenario()) == ["busy0", "other0", "third0", "busy1", "other1", "busy2"]


def test_a_job_that_is_refused_in_the_middle_of_a_line_leaves_the_others_in_order(model):
    async def scenario():
        async with running() as run:
            one = begin(model, "one")
            held = await run.hold(one)
            soon = asyncio.get_running_loop().time() + 0.01
            jobs = (("first", math.inf), ("late", soon), ("last", math.inf))
            first, late, last = (submit(run, one, name, by) for name, by in jobs)
            with pytest.raises(DeadlineError, match="no turn within the request's timeout"):
                await late
            run.released.set()
            await asyncio.gather(held, first, last)
            return run.order

    assert asyncio.run(scenario()) == ["first", "last"]


def test_a_job_whose_time_is_over_when_it_arrives_is_refused_even_if_the_worker_is_idle(model):
    async def scenario():
        async with running() as run:
            one = begin(model, "one")
            with pytest.raises(DeadlineError, match="nothing was changed"):
                await submit(run, one, "late", asyncio.get_running_loop().time())
            await submit(run, one, "next")
            return run.order

    assert asyncio.run(scenario()) == ["next"]


def test_a_probe_gets_the_worker_after_the_job_that_runs_and_jobs_go_on_after_it(model):
    async def probe(run):
        async with run.worker.slot:
            await run.worker.run(lambda: run.order.append("probe"))

    async def scenario():
        async with running() as run:
            held = await run.hold(begin(model, "holds"))
            jobs = [submit(run, begin(model, f"s{number}"), number) for number in range(3)]
            await asyncio.sleep(0)
            probing = asyncio.ensure_future(probe(run))
            await asyncio.sleep(0)
            run.released.set()
            await asyncio.gather(held, probing, *jobs)
            return run.order

    assert asyncio.run(scenario()) == ["probe", 0, 1, 2]


def test_a_job_that_waits_for_the_store_keeps_its_streams_turn_while_other_streams_go_on(model):
    async def scenario():
        async with running() as run:
            one, other = begin(model, "one"), begin(model, "other")
            stored = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()

            def job():
                run.order.append("before")
                yield lambda: asyncio.run_coroutine_threadsafe(asyncio.wait_for(stored, 10), loop).result()
                run.order.append("after")

            paused = asyncio.ensure_future(run.scheduler.submit_steps(one, job))
            behind = submit(run, one, "behind")
            await submit(run, other, "other")
            stored.set_result(None)
            await asyncio.gather(paused, behind)
            return run.order

    assert asyncio.run(scenario()) == ["before", "other", "after", "behind"]
