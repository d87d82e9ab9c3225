"""Liveness, readiness, server metadata, metrics."""

from collections.abc import Callable
from importlib.metadata import version

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.v2_schemas import Live, Ready, ServerMetadata

TEXT: dict[str, dict[str, object]] = {"text/plain": {"schema": {"type": "string"}}}
NOT_READY = "Starting, draining, or in trouble; `reason` names the trouble."
EXTENSIONS = ["binary_tensor_data", "model_configuration", "sequence", "sequence(string_id)", "statistics"]
"""The protocol's extensions that are served completely."""


def router(ready: Callable[[], bool], troubles: Callable[[], list[str]], metrics: Callable[[], bytes]) -> APIRouter:
    """Return the routes for health checks, server metadata and metrics."""
    routes = APIRouter()

    @routes.get("/v2", tags=["V2 data plane"])
    async def server_metadata() -> ServerMetadata:
        """Name, version and extensions of the server."""
        return ServerMetadata(name="acclimate", version=version("acclimate"), extensions=EXTENSIONS)

    @routes.get("/v2/health/live", tags=["V2 data plane"])
    async def live() -> Live:
        """200 if the process answers."""
        return Live(live=True)

    @routes.get(
        "/v2/health/ready", tags=["V2 data plane"], response_model=Ready,
        responses={503: {"model": Ready, "description": NOT_READY}},
    )  # fmt: skip
    async def server_ready() -> JSONResponse:
        """200 if the server takes requests; 503 while it starts, restores, drains, or is in trouble."""
        found = troubles()
        if found:
            return JSONResponse({"ready": False, "reason": "; ".join(found)}, 503)
        is_ready = ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @routes.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": TEXT}})
    async def expose_metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    # Monitors check paths by HEAD, and some clients add a slash after the version.
    for path, answer in (("/v2/health/live", live), ("/v2/health/ready", server_ready), ("/metrics", expose_metrics)):
        routes.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)
    routes.add_api_route("/v2/", server_metadata, include_in_schema=False)
    return routes
