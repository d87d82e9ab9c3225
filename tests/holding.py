"""A scheduler whose worker is held until all that is to wait does, and requests of streams that wait for it."""

import asyncio
import threading
from contextlib import asynccontextmanager

from service.models.kernels.kernel import KernelStatus
from service.models.worker import Worker
from service.serving.admission import Admission
from service.serving.scheduler import Scheduler
from service.serving.stream_batching import Groups, Shared
from service.storage.store_calls import StoreCalls
from service.telemetry.metrics import Telemetry
from tests.streams import serve, stream_of

SPEC = "unmix_tns+eata"


def pays(joint, fitted, xs):
    return KernelStatus("", joint, 2, 4.0)


def begin(model, stream_id="s", spec=SPEC, **settings):
    return stream_of(model, spec, stream_id=stream_id, **settings)


class Running:
    """A scheduler whose worker is held until all that is to wait does."""

    def __init__(self, scheduler, worker, telemetry):
        self.scheduler, self.worker, self.telemetry = scheduler, worker, telemetry
        self.began, self.released = threading.Event(), threading.Event()
        self.order = []

    async def hold(self, stream):
        def held():
            self.began.set()
            assert self.released.wait(10)

        task = asyncio.ensure_future(self.scheduler.submit(stream, held))
        assert await asyncio.to_thread(self.began.wait, 10)
        return task

    def ask(self, stream, x):
        shared = Shared(stream, x)

        def answer():
            self.order.append(stream.id)
            return serve(stream, x, step=shared.step)

        return asyncio.ensure_future(self.scheduler.submit(stream, answer, shared))

    def groups_of(self, model, spec=SPEC):
        """How many groups there were, and of how many streams in all."""
        labels = {"model": model.name, "adapter": spec}
        told = (self.telemetry.registry.get_sample_value(f"acclimate_group_size_streams_{kind}", labels)
                for kind in ("count", "sum"))  # fmt: skip
        return tuple(int(value or 0) for value in told)


@asynccontextmanager
async def running(*, judge=pays, most=64, deadline_seconds=30.0):
    worker, telemetry = Worker(1), Telemetry()
    groups = Groups(most, telemetry, judge)
    admission = Admission(telemetry, max_queue=1000, max_queue_per_stream=50)
    scheduler = Scheduler(worker, admission, telemetry, groups, StoreCalls(), deadline_seconds=deadline_seconds)
    made = Running(scheduler, worker, telemetry)
    try:
        yield made
    finally:
        made.released.set()
        assert await made.scheduler.admission.drain(10)
        worker.close()


async def asked_together(run, model, requests):
    """Answers to requests that all wait while the worker is held."""
    held = await run.hold(begin(model, "holds"))
    tasks = [run.ask(stream, x) for stream, x in requests]
    for _ in range(3):
        await asyncio.sleep(0)
    run.released.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await held
    return answers


def together(model, requests, **settings):
    async def scenario():
        async with running(**settings) as run:
            return await asked_together(run, model, requests), run

    return asyncio.run(scenario())
