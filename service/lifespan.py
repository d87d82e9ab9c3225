"""The server's start and stop, and its work in the background in between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.services import DAY, Services, Store
from service.serving.shutdown import close_part, stop
from service.storage.backends import garbage
from service.storage.checkpointer import Keeper
from service.storage.event_log import EventLog
from service.storage.history_files import Histories
from service.streams.table import StreamTable
from service.support.clock import CLOCK
from service.telemetry.logs import log

CLEAN_SECONDS = 60.0


@asynccontextmanager
async def running(services: Services) -> AsyncIterator[None]:
    """Start the parts of a server; at the end of the block, keep all streams and close the parts in order."""
    await _start(services)
    yield
    await _stop(services)


async def _start(services: Services) -> None:
    store, settings, supervisor = services.store, services.settings, services.supervisor
    adopted = await asyncio.to_thread(store.snapshots.adopt)
    services.residence.begin(await asyncio.to_thread(store.catalogue.records))
    await asyncio.to_thread(services.keeper.remember_ended)
    services.lifecycle.ready = True
    known = len(services.table.resting)
    facts = {"streams": known, "snapshots_adopted": adopted, "threads": settings.torch_threads}
    log.info("started", models=list(services.models), **facts)
    supervisor.start("prober", services.prober.run)
    supervisor.start("keeper", services.keeper.run)
    supervisor.start("residence", services.residence.run)
    supervisor.start("store_watch", services.store_watch.run)
    supervisor.start("step_watch", services.step_watch.run)
    events_seconds = settings.events_days * DAY
    supervisor.start("cleaner", lambda: _clean(store, services.events, services.keeper, events_seconds))
    supervisor.start("histories", lambda: _keep_histories(store.histories, services.table))


async def _stop(services: Services) -> None:
    store, lifecycle = services.store, services.lifecycle
    await stop(
        lifecycle, services.admission, services.keeper, services.supervisor, services.calls,
        services.settings.drain_seconds,
    )  # fmt: skip
    lasting = [each for each in services.table if each.current.config.durability != "ephemeral"]
    close_part(lifecycle, "histories", lambda: store.histories.save(lasting))
    if services.workshop is not None:
        services.workshop.close()
    if services.trials is not None:
        services.trials.close()
    services.decoder.close()
    close_part(lifecycle, "worker", services.worker.close)
    store.journal.close()
    close_part(lifecycle, "events", services.events.close)
    close_part(lifecycle, "database", store.database.close)
    services.calls.close()
    log.info("stopped", hung=lifecycle.hung)


async def _keep_histories(histories: Histories, table: StreamTable) -> None:
    """Write changed histories and remove abandoned ones, until cancelled."""
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        await asyncio.to_thread(histories.keep_up, list(table))
        await asyncio.to_thread(histories.forget_old)


async def _clean(store: Store, events: EventLog, keeper: Keeper, events_seconds: float) -> None:
    """Remove unreferenced blobs, old events and old answers, until cancelled."""
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        if not CLOCK.is_sure():  # a wrong clock may make things look old
            continue
        try:
            await asyncio.to_thread(garbage.collect, store.database.engine, store.places)
            await asyncio.to_thread(events.forget, events_seconds)
            await asyncio.to_thread(keeper.forget_ended)
        except Exception as error:  # noqa: BLE001 - a failing store must not end this loop
            log.error("store_not_cleaned", reason=str(error))
