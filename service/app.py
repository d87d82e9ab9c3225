"""create_app(settings): the HTTP application around the server's parts. Nothing else makes it."""

import asyncio
import os
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from service.api import openapi, problems, v2_schemas
from service.api.held_bytes import HeldBound
from service.api.keys import LOOPBACK, Keys, check_listening, read_keys
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
from service.lifespan import running
from service.services import Services, make_services
from service.serving import signal_distributions
from service.settings import Settings

TRACES_TO = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The OpenTelemetry variable with the collector's address. Without it there are no traces."""
DASHBOARD = Path(__file__).parent / "dashboard"


def create_app(settings: Settings) -> FastAPI:
    """Build the server.

    Raises:
        SettingsError: If the settings are unsafe or contradict each other.
        BundleError: If a bundle cannot be served.
    """
    keys = read_keys(settings.keys_file)
    check_listening(settings.host, keys, insecure=settings.insecure)
    services = make_services(settings)
    sessions = Sessions(settings.data / "sessions.json" if keys.scopes else None)
    app = FastAPI(
        title="Acclimate",
        version=version("acclimate"),
        summary="An inference server whose model keeps adapting to the data it is sent.",
        lifespan=lambda _app: running(services),
        redirect_slashes=False,  # a redirect would repeat the request's Host
        telemetry={"auto_configure": TRACES_TO in os.environ, "metrics": False, "logs": False},
        responses=problems.responses(401, 403, 422),
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=openapi.operation_id,
    )
    app.state.services = services
    problems.install(app)
    openapi.install(app, v2_schemas.InferRequest, v2_schemas.InferResponse, problems.Problem)
    _add_middleware(app, services, keys, sessions)
    _include_routes(app, services, keys, sessions)
    return app


def _add_middleware(app: FastAPI, services: Services, keys: Keys, sessions: Sessions) -> None:
    """Add the middleware. A request passes the last one first."""
    settings = services.settings
    app.add_middleware(BodyBound, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(HeldBound, most=settings.max_held_bytes)
    app.add_middleware(ListenerBound, most=settings.max_listeners)
    app.add_middleware(
        RateLimit, sessions=sessions, keyed=bool(keys.scopes), rate=settings.rate_per_key,
        burst_seconds=settings.rate_burst_seconds,
    )  # fmt: skip
    app.add_middleware(access.Gate, keys=keys, sessions=sessions, trusts_loopback=settings.host in LOOPBACK)
    app.add_middleware(InterruptedByStop)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Audit, events=services.events)


def _include_routes(app: FastAPI, services: Services, keys: Keys, sessions: Sessions) -> None:
    """Include the routes. They match in order, so the busiest come first."""
    settings = services.settings
    app.include_router(infer.router(services.dataplane, services.decoder, settings.max_body_bytes))
    app.include_router(
        health.router(
            lambda: services.lifecycle.ready and not services.admission.draining,
            services.readiness.troubles,
            lambda: _metrics(services),
        )
    )
    app.include_router(repository.router(services.dataplane, services.models, services.statistics, settings.max_batch))
    app.include_router(unsupported.router())
    app.include_router(models.router(services.dataplane, services.models))
    app.include_router(signals.router())
    app.include_router(dashboard.router(DASHBOARD))
    app.include_router(session.router(sessions, keys.granted, keys.granted_to))
    app.include_router(events.router(services.events))
    app.include_router(watching_routes.router(services.watching, services.residence))
    app.include_router(feedback.router(services.control))
    app.include_router(streams.router(services.control, settings.durability))
    app.include_router(snapshots.router(services.control))
    app.include_router(snapshots.store_router(services.control, settings.max_body_bytes))


def _metrics(services: Services) -> bytes:
    """Return all metrics as Prometheus text. Those of the streams are measured now."""
    telemetry = services.telemetry
    all_streams = list(services.table)
    telemetry.streams.set(len(all_streams))
    telemetry.resting.set(len(services.table.resting))
    telemetry.state_bytes.set(sum(stream.current.state.size_bytes for stream in all_streams))
    signal_distributions.observe(telemetry, all_streams)
    telemetry.tasks.set(len(asyncio.all_tasks()))
    return telemetry.expose()
