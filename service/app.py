"""create_app(settings): builds the server's objects and connects them. Nothing else does."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from fastapi import FastAPI
from sqlalchemy import Engine

from service.api import openapi, problems, v2_schemas
from service.api.held_bytes import HeldBound
from service.api.keys import LOOPBACK, check_listening, read_keys
from service.api.middleware import access
from service.api.middleware.audit import Audit
from service.api.middleware.body import BodyBound
from service.api.middleware.interrupted import InterruptedByStop
from service.api.middleware.listener_bound import ListenerBound
from service.api.middleware.rate_limit import RateLimit
from service.api.routes import (
    dashboard,
    events,
    feedback,
    health,
    infer,
    models,
    repository,
    session,
    signals,
    snapshots,
    streams,
    unsupported,
)
from service.api.routes import overview as watching_routes
from service.api.security_headers import SecurityHeaders
from service.api.sessions import Sessions
from service.errors import ServiceError, SettingsError
from service.models.bundle import read_bundle
from service.models.gradient_trials import Trials
from service.models.hosted import HostedModel, host
from service.models.kernels.graphs.cache import Graphs
from service.models.kernels.native.background import Workshop
from service.models.worker import Worker
from service.monitoring.late_labels import Feedback
from service.serving import signal_distributions
from service.serving.admission import Admission
from service.serving.controlplane import Controlplane
from service.serving.dataplane import Dataplane
from service.serving.overview import Watching
from service.serving.probe_runs import Prober
from service.serving.scheduler import Scheduler
from service.serving.shutdown import Lifecycle, close_part, stop
from service.serving.step_watch import StepWatch
from service.serving.stream_batching import Groups
from service.serving.stream_cache import Residence, RestLimits
from service.serving.suspects import Suspects
from service.settings import Settings
from service.storage.backends import garbage, orphans
from service.storage.backends.blobs import Blobs, FolderBlobs
from service.storage.backends.catalogue import CHECKPOINTS, Catalogue
from service.storage.backends.database import Database, open_database
from service.storage.backends.objects import ObjectBlobs
from service.storage.backends.presence import Presence
from service.storage.backends.presence_watch import StoreWatch
from service.storage.checkpointer import Keeper
from service.storage.checkpoints import Checkpoints
from service.storage.ended_answers import EndedAnswers
from service.storage.event_log import EventLog
from service.storage.history_files import Histories
from service.storage.recorder import Recorder
from service.storage.snapshots.store import PLACE, SnapshotStore
from service.storage.step_journal import StepJournal
from service.storage.store_calls import StoreCalls
from service.streams.disk_spill import Spill
from service.streams.good_states import GoodStates
from service.streams.idempotency import RetryLog
from service.streams.table import StreamTable
from service.support.clock import CLOCK
from service.support.readiness import Readiness
from service.support.supervision import Supervisor
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry
from service.telemetry.statistics import Statistics
from service.types import JsonLimits, Limits
from service.wire.decoding import Decoder

TRACES_TO = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The OpenTelemetry variable with the collector's address. Without it there are no traces."""
DASHBOARD = Path(__file__).parent / "dashboard"
CLEAN_SECONDS, DAY = 60.0, 86_400.0


def create_app(settings: Settings) -> FastAPI:
    """Build the server.

    Raises:
        SettingsError: If the settings are unsafe or contradict each other.
        BundleError: If a bundle cannot be served.
    """
    keys = read_keys(settings.keys_file)
    check_listening(settings.host, keys, insecure=settings.insecure)
    torch.set_num_threads(settings.torch_threads)
    trials = _trials(settings)
    hosted = load_models(settings, trials)
    telemetry, statistics = Telemetry(), Statistics()
    worker, calls = Worker(settings.torch_threads), StoreCalls(settings.store_seconds)
    drop_inputs = settings.checkpoint_inputs == "drop"
    table = StreamTable(
        settings.max_streams,
        RetryLog(settings.retry_entries, settings.retry_bytes),
        lambda: Feedback(settings.feedback_images, settings.feedback_days * DAY),
        GoodStates(settings.good_bytes, Spill(settings.data / "spilled", drop_inputs=drop_inputs)),
    )
    journal = StepJournal(settings.data / "steps")
    suspects = Suspects(journal)
    admission = Admission(telemetry, max_queue=settings.max_queue, max_queue_per_stream=settings.max_queue_per_stream)
    scheduler = Scheduler(
        worker,
        admission,
        telemetry,
        Groups(settings.group_streams, telemetry),
        calls,
        deadline_seconds=settings.deadline_seconds,
        suspects=suspects,
    )
    supervisor = Supervisor(telemetry)
    places = {place: blobs_of(settings, place) for place in (PLACE, CHECKPOINTS)}
    database = _opened(settings, places[CHECKPOINTS])
    log_of_events = EventLog(database, supervisor, calls, sharded=settings.sharded)
    recorder = Recorder(telemetry, log_of_events, settings.keep_misfits)
    store, catalogue = SnapshotStore(database.engine, places[PLACE]), Catalogue(database.engine)
    checkpoints = Checkpoints(catalogue, places[CHECKPOINTS], half=settings.half_checkpoints, drop_inputs=drop_inputs)
    keeper = Keeper(
        checkpoints, table, worker, recorder, telemetry, steps=settings.period_steps, seconds=settings.period_seconds,
        calls=calls, ended=EndedAnswers(settings.ended_seconds, settings.ended_bytes),
    )  # fmt: skip
    histories = Histories(settings.data / "histories")
    residence = Residence(
        table, keeper, hosted, scheduler, calls, recorder, limits=limits_of(settings), sharded=settings.sharded,
        histories=histories, suspects=suspects,
    )  # fmt: skip
    control = Controlplane(hosted, table, scheduler, calls, store, telemetry, recorder, keeper, residence)
    prober = Prober(worker, scheduler, telemetry, recorder, settings.probe_every)
    workshop = Workshop(settings.allow_factories, settings.torch_threads) if settings.compiled_gradients else None
    dataplane = Dataplane(
        hosted, table, scheduler, telemetry, statistics, settings, recorder, prober, keeper, residence,
        end=control.end, workshop=workshop,
    )  # fmt: skip
    decoder = Decoder(
        request_limits_of(settings), max_pixels=settings.max_pixels_under_way, threads=settings.torch_threads,
        deadline_seconds=settings.deadline_seconds,
    )  # fmt: skip
    watching = Watching(hosted, table, log_of_events, suspects)
    store_watch = StoreWatch(Presence.of(filter(None, (settings.data, database.file))))
    step_watch = StepWatch(worker, settings.step_seconds)
    readiness = Readiness(supervisor.troubles, store_watch.troubles, step_watch.troubles)

    def drain() -> None:
        admission.refuse()
        log_of_events.wake()
        watching.close()

    lifecycle = Lifecycle(drain=drain)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        adopted = await asyncio.to_thread(store.adopt)
        residence.begin(await asyncio.to_thread(catalogue.records))
        await asyncio.to_thread(keeper.remember_ended)
        lifecycle.ready = True
        known = len(table.resting)
        facts = {"streams": known, "snapshots_adopted": adopted, "threads": settings.torch_threads}
        log.info("started", models=list(hosted), **facts)
        supervisor.start("prober", prober.run)
        supervisor.start("keeper", keeper.run)
        supervisor.start("residence", residence.run)
        supervisor.start("store_watch", store_watch.run)
        supervisor.start("step_watch", step_watch.run)
        events_seconds = settings.events_days * DAY
        supervisor.start("cleaner", lambda: _clean(database.engine, places, log_of_events, keeper, events_seconds))
        supervisor.start("histories", lambda: _keep_histories(histories, table))
        yield
        await stop(lifecycle, admission, keeper, supervisor, calls, settings.drain_seconds)
        lasting = [each for each in table if each.current.config.durability != "ephemeral"]
        close_part(lifecycle, "histories", lambda: histories.save(lasting))
        if workshop is not None:
            workshop.close()
        if trials is not None:
            trials.close()
        decoder.close()
        close_part(lifecycle, "worker", worker.close)
        journal.close()
        close_part(lifecycle, "events", log_of_events.close)
        close_part(lifecycle, "database", database.close)
        calls.close()
        log.info("stopped", hung=lifecycle.hung)

    def metrics() -> bytes:
        all_streams = list(table)
        telemetry.streams.set(len(all_streams))
        telemetry.resting.set(len(table.resting))
        telemetry.state_bytes.set(sum(stream.current.state.size_bytes for stream in all_streams))
        signal_distributions.observe(telemetry, all_streams)
        telemetry.tasks.set(len(asyncio.all_tasks()))
        return telemetry.expose()

    app = FastAPI(
        title="Acclimate",
        version=version("acclimate"),
        summary="An inference server whose model keeps adapting to the data it is sent.",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would repeat the request's Host
        telemetry={"auto_configure": TRACES_TO in os.environ, "metrics": False, "logs": False},
        responses=problems.responses(401, 403, 422),
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=openapi.operation_id,
    )
    app.state.lifecycle, app.state.residence, app.state.supervisor = lifecycle, residence, supervisor
    problems.install(app)
    openapi.install(app, v2_schemas.InferRequest, v2_schemas.InferResponse, problems.Problem)
    app.add_middleware(BodyBound, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(HeldBound, most=settings.max_held_bytes)
    app.add_middleware(ListenerBound, most=settings.max_listeners)
    sessions = Sessions(settings.data / "sessions.json" if keys.scopes else None)
    app.add_middleware(
        RateLimit, sessions=sessions, keyed=bool(keys.scopes), rate=settings.rate_per_key,
        burst_seconds=settings.rate_burst_seconds,
    )  # fmt: skip
    app.add_middleware(access.Gate, keys=keys, sessions=sessions, trusts_loopback=settings.host in LOOPBACK)
    app.add_middleware(InterruptedByStop)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Audit, events=log_of_events)
    app.include_router(
        infer.router(dataplane, decoder, settings.max_body_bytes)
    )  # routes match in order: busiest first
    app.include_router(health.router(lambda: lifecycle.ready and not admission.draining, readiness.troubles, metrics))
    app.include_router(repository.router(dataplane, hosted, statistics, settings.max_batch))
    app.include_router(unsupported.router())
    app.include_router(models.router(dataplane, hosted))
    app.include_router(signals.router())
    app.include_router(dashboard.router(DASHBOARD))
    app.include_router(session.router(sessions, keys.granted, keys.granted_to))
    app.include_router(events.router(log_of_events))
    app.include_router(watching_routes.router(watching, residence))
    app.include_router(feedback.router(control))
    app.include_router(streams.router(control, settings.durability))
    app.include_router(snapshots.router(control))
    app.include_router(snapshots.store_router(control, settings.max_body_bytes))
    return app


def _opened(settings: Settings, checkpoints: Blobs) -> Database:
    """Open the catalogue.

    Raises:
        SettingsError: If it cannot be opened, or has no streams although the store has checkpoints of some.
    """
    new = settings.new_catalogue
    database = open_database(
        settings.database, settings.data, sharded=settings.sharded, new_catalogue=new,
        store_seconds=settings.store_seconds,
    )  # fmt: skip
    try:
        orphans.check(database.engine, checkpoints, location_of(settings, CHECKPOINTS), new_catalogue=new)
    except ServiceError:
        database.close()
        raise
    return database


def blobs_of(settings: Settings, place: str) -> Blobs:
    """Return the store for a kind of blobs: under the blobs' URL, or in the data folder.

    Raises:
        SettingsError: If the URL is wrong.
    """
    location = location_of(settings, place)
    return ObjectBlobs(location) if settings.blobs else FolderBlobs(Path(location))


def location_of(settings: Settings, place: str) -> str:
    """Return the URL or folder for a kind of blobs."""
    return f"{settings.blobs.rstrip('/')}/{place}" if settings.blobs else str(settings.data / place)


def limits_of(settings: Settings) -> RestLimits:
    """Return the limits after which streams leave the memory, or end."""
    return RestLimits(settings.resident_bytes, settings.rest_after_seconds, settings.end_after_days * DAY)


def request_limits_of(settings: Settings) -> Limits:
    """Return the limits of one inference request."""
    json = JsonLimits(bytes=settings.max_json_bytes)
    return Limits(max_batch=settings.max_batch, max_pixels=settings.max_pixels, json=json)


async def _keep_histories(histories: Histories, table: StreamTable) -> None:
    """Write changed histories and remove abandoned ones, until cancelled."""
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        await asyncio.to_thread(histories.keep_up, list(table))
        await asyncio.to_thread(histories.forget_old)


async def _clean(
    engine: Engine, places: Mapping[str, Blobs], events_log: EventLog, keeper: Keeper, events_seconds: float
) -> None:
    """Remove unreferenced blobs, old events and old answers, until cancelled."""
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        if not CLOCK.is_sure():  # a wrong clock may make things look old
            continue
        try:
            await asyncio.to_thread(garbage.collect, engine, places)
            await asyncio.to_thread(events_log.forget, events_seconds)
            await asyncio.to_thread(keeper.forget_ended)
        except Exception as error:  # noqa: BLE001 - a failing store must not end this loop
            log.error("store_not_cleaned", reason=str(error))


def load_models(settings: Settings, trials: Trials | None = None) -> dict[str, HostedModel]:
    """Load every bundle, by model name.

    Raises:
        SettingsError: If two bundles have the same name, or there is none.
        BundleError: If a bundle cannot be served.
    """
    loaded: dict[str, HostedModel] = {}
    threads = settings.torch_threads
    graphs = _graphs(settings) if settings.compiled else None
    for path in settings.bundles:
        model = host(read_bundle(path), settings.allow_factories, threads, graphs, trials)
        if model.name in loaded:
            raise SettingsError(f"two bundles are named {model.name!r}: {loaded[model.name].bundle.path} and {path}")
        loaded[model.name] = model
    if not loaded:
        raise SettingsError("no bundle is given; expected at least one")
    return loaded


def _graphs(settings: Settings) -> Graphs:
    grouping = settings.group_streams > 1
    return Graphs(settings.data / "graphs", settings.torch_threads, settings.compiled_specs, grouping=grouping)


def _trials(settings: Settings) -> Trials | None:
    if not settings.try_gradients:
        return None
    return Trials(settings.data / "tried", settings.allow_factories, settings.torch_threads)
