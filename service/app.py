"""create_app(settings): the only place where the server's objects are built and joined."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from fastapi import FastAPI

from service.api import (
    access,
    dashboard,
    events,
    feedback,
    health,
    infer,
    models,
    problems,
    session,
    snapshots,
    streams,
)
from service.api import watching as watching_routes
from service.api.body import BodyBound
from service.api.hardening import SecurityHeaders
from service.api.limits import RateLimit
from service.bundles import read_bundle
from service.controlplane import Controlplane
from service.dataplane import Dataplane
from service.errors import SettingsError
from service.events import EventLog
from service.feedback import Feedback
from service.good_states import GoodStates
from service.hosting import HostedModel, host
from service.probing import Prober
from service.recording import Recorder
from service.retries import RetryLog
from service.scheduler import Scheduler
from service.settings import Settings
from service.snapshots.folder import SnapshotFolder
from service.spilling import Spill
from service.statistics import Statistics
from service.streams import StreamTable
from service.telemetry import Telemetry, log
from service.watching import Watching
from service.worker import Worker

TRACES_TO = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Where traces go, OpenTelemetry's own setting; without it there are none."""
DASHBOARD = Path(__file__).parent / "dashboard"


@dataclass
class Lifecycle:
    """Whether requests are taken, and how to stop taking them."""

    ready: bool = False
    drain: Callable[[], None] = lambda: None


def create_app(settings: Settings) -> FastAPI:
    """Build the server.

    Raises:
        SettingsError: If the settings are unsafe or contradict each other.
        BundleError: If a bundle cannot be served.
    """
    keys = access.read_keys(settings.keys_file)
    access.check_listening(settings.host, keys, insecure=settings.insecure)
    torch.set_num_threads(settings.torch_threads)
    hosted = load_models(settings)
    telemetry, statistics = Telemetry(), Statistics()
    worker = Worker(settings.torch_threads)
    table = StreamTable(
        settings.max_streams,
        lambda: RetryLog(settings.retry_entries, settings.retry_bytes),
        lambda: Feedback(settings.feedback_images, settings.feedback_days * 86_400),
        GoodStates(settings.good_bytes, Spill(settings.data / "spilled")),
    )
    scheduler = Scheduler(
        worker,
        telemetry,
        max_queue=settings.max_queue,
        max_queue_per_stream=settings.max_queue_per_stream,
        deadline_seconds=settings.deadline_seconds,
    )
    log_of_events = EventLog(settings.data / "acclimate.db")
    recorder = Recorder(telemetry, log_of_events, settings.keep_misfits)
    store = SnapshotFolder(settings.data / "snapshots")
    control = Controlplane(hosted, table, scheduler, worker, store, telemetry, recorder)
    prober = Prober(worker, scheduler, telemetry, recorder, settings.probe_every)
    dataplane = Dataplane(hosted, table, scheduler, telemetry, statistics, settings, recorder, prober, end=control.end)
    watching = Watching(hosted, table, log_of_events)

    def drain() -> None:
        scheduler.refuse()
        log_of_events.wake()
        watching.close()

    lifecycle = Lifecycle(drain=drain)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        resumed = await worker.run(control.resume)
        lifecycle.ready = True
        log.info("started", models=list(hosted), streams_resumed=resumed, threads=settings.torch_threads)
        probes = asyncio.ensure_future(prober.run())
        yield
        lifecycle.ready = False
        drain()
        drained = await scheduler.drain(settings.drain_seconds)
        probes.cancel()
        kept = await worker.run(control.persist)
        worker.close()
        log_of_events.close()
        log.info("stopped", drained=drained, streams_kept=kept)

    def metrics() -> bytes:
        all_streams = list(table)
        telemetry.streams.set(len(all_streams))
        telemetry.state_bytes.set(sum(stream.state_bytes for stream in all_streams))
        return telemetry.expose()

    app = FastAPI(
        title="Acclimate",
        version=version("acclimate"),
        summary="An inference server whose model keeps adapting to the data it is sent.",
        lifespan=lifespan,
        telemetry={"auto_configure": TRACES_TO in os.environ, "metrics": False, "logs": False},
        responses=problems.responses(401, 403, 422),
    )
    app.state.lifecycle = lifecycle
    problems.install(app)
    app.add_middleware(BodyBound, max_bytes=settings.max_body_bytes)
    sessions = session.Sessions()
    app.add_middleware(
        RateLimit, sessions=sessions, keyed=bool(keys.scopes), rate=settings.rate_per_key,
        burst_seconds=settings.rate_burst_seconds,
    )  # fmt: skip
    app.add_middleware(access.Gate, keys=keys, sessions=sessions, trusts_loopback=settings.host in access.LOOPBACK)
    app.add_middleware(SecurityHeaders)
    app.include_router(health.router(lambda: lifecycle.ready and not scheduler.draining, metrics))
    app.include_router(models.router(dataplane, hosted, statistics))
    app.include_router(infer.router(dataplane, settings.max_body_bytes))
    app.include_router(dashboard.router(DASHBOARD))
    app.include_router(session.router(sessions, keys.granted))
    app.include_router(events.router(log_of_events))
    app.include_router(watching_routes.router(watching))
    app.include_router(feedback.router(control))
    app.include_router(streams.router(control))
    app.include_router(snapshots.router(control))
    app.include_router(snapshots.store_router(control, settings.max_body_bytes))
    return app


def load_models(settings: Settings) -> dict[str, HostedModel]:
    """Load every bundle, by model name.

    Raises:
        SettingsError: If two bundles have one name, or there is none.
        BundleError: If a bundle cannot be served.
    """
    loaded: dict[str, HostedModel] = {}
    for path in settings.bundles:
        model = host(read_bundle(path), settings.allow_factories, settings.torch_threads)
        if model.name in loaded:
            raise SettingsError(f"two bundles are named {model.name!r}: {loaded[model.name].bundle.path} and {path}")
        loaded[model.name] = model
    if not loaded:
        raise SettingsError("no bundle is given; expected one at least")
    return loaded
