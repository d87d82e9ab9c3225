"""Triton extensions that are not served. Each is refused by name, and the error says what to do instead."""

from collections.abc import Awaitable, Callable
from typing import NoReturn

from fastapi import APIRouter

from service.errors import UnknownError

OF_A_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
UNSERVED = (
    (
        ("/v2/systemsharedmemory/{rest:path}", "/v2/cudasharedmemory/{rest:path}"),
        "shared memory is not served: send tensors in the body",
    ),
    (
        ("/v2/trace/setting", *(f"{path}/trace/setting" for path in OF_A_MODEL)),
        "trace is not served: set OTEL_EXPORTER_OTLP_ENDPOINT to trace the server",
    ),
    (("/v2/logging",), "logging is not served: the server's log goes to its standard error"),
    (
        ("/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload"),
        "loading is not served: give the server its bundles at the start",
    ),
    (
        tuple(f"{path}/{name}" for path in OF_A_MODEL for name in ("generate", "generate_stream")),
        "generate is not served: send tensors or images to infer",
    ),
)
"""Paths and their error texts, which name an alternative."""


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(include_in_schema=False)
    for paths, said in UNSERVED:
        for path in paths:
            routes.add_api_route(path, _refusal(said), methods=["GET", "POST"], response_model=None)
    return routes


def _refusal(said: str) -> Callable[[], Awaitable[NoReturn]]:
    async def refuse() -> NoReturn:
        raise UnknownError(said)

    return refuse
