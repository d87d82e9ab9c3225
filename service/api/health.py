"""Liveness, readiness, server metadata, metrics."""

from collections.abc import Callable
from importlib.metadata import version

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

TEXT: dict[str, dict[str, object]] = {"text/plain": {"schema": {"type": "string"}}}
NOT_READY = "Starting, draining, or in a trouble that `reason` names."
EXTENSIONS = ["binary_tensor_data", "sequence", "sequence(string_id)", "statistics", "model_repository"]


def router(ready: Callable[[], bool], troubles: Callable[[], list[str]], metrics: Callable[[], bytes]) -> APIRouter:
    """Return the routes that tell how the server is."""
    routes = APIRouter()

    @routes.get("/v2", tags=["V2 data plane"])
    async def server_metadata() -> dict[str, object]:
        """Name, version and extensions of the server."""
        return {"name": "acclimate", "version": version("acclimate"), "extensions": EXTENSIONS}

    @routes.get("/v2/health/live", tags=["V2 data plane"])
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @routes.get("/v2/health/ready", tags=["V2 data plane"], responses={503: {"description": NOT_READY}})
    async def server_ready() -> JSONResponse:
        """Whether requests are taken: not while starting, restoring or draining, and not in trouble."""
        found = troubles()
        if found:
            return JSONResponse({"ready": False, "reason": "; ".join(found)}, 503)
        is_ready = ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @routes.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": TEXT}})
    async def expose_metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    return routes
