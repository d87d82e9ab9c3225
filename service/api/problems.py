"""Maps errors to HTTP statuses, the only place that does. Every error body is {"error": "..."}."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from service import errors
from service.api.security_headers import headers_of
from service.support.validation_messages import sentences
from service.telemetry.logs import log

STATUS: Mapping[type[errors.ServiceError], int] = MappingProxyType(
    {
        errors.MalformedError: 400,
        errors.UnauthenticatedError: 401,
        errors.ForbiddenError: 403,
        errors.UnknownError: 404,
        errors.ConflictError: 409,
        errors.MovedOnError: 412,
        errors.TooLargeError: 413,
        errors.UnsupportedError: 415,
        errors.UnfitError: 422,
        errors.BundleError: 422,
        errors.BusyError: 429,
        errors.FailedError: 500,
        errors.SettingsError: 500,
        errors.SaturatedError: 503,
        errors.StoreDownError: 503,
        errors.FencedError: 409,
        errors.DeadlineError: 504,
        errors.StoreFullError: 507,
    }
)
RETRY_AFTER_SECONDS = 1
RETRIED = (429, 503)
JSON = "application/json"
MAX_SAID = 300
"""Most characters of a client's text that an error repeats."""


class Problem(BaseModel):
    """The body of every error."""

    error: str
    """The value given, and the value expected."""


def responses(*codes: int) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI entries of error responses.

    They refer to the schema of `Problem`: FastAPI would build a validator for each code of each route from the class.
    """
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {code: {"content": {JSON: {"schema": schema}}} for code in codes}


def answer(error: errors.ServiceError) -> JSONResponse:
    """Return the HTTP response to an error."""
    response = _answer(STATUS[type(error)], str(error))
    if isinstance(error, errors.BusyError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.seconds)))
    return response


def install(app: FastAPI) -> None:
    """Answer every error of an app with the standard error body."""

    @app.exception_handler(errors.ServiceError)
    async def refused(_request: Request, error: errors.ServiceError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()
        media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if media_type != JSON and any(problem["loc"][0] == "body" for problem in problems):
            return _answer(415, f"Content-Type is {media_type[:100]!r}, expected {JSON}")
        malformed = any(problem["type"] == "json_invalid" for problem in problems)
        return _answer(400 if malformed else 422, sentences(problems, skip=1))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        said = {
            404: f"there is nothing at {request.url.path[:MAX_SAID]}",
            405: f"{request.method} is not served at {request.url.path[:MAX_SAID]}",
        }
        response = _answer(error.status_code, said.get(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def client_gone(request: Request, _error: ClientDisconnect) -> Response:
        log_client_gone(request.scope)
        return Response(status_code=400)  # nobody receives it

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("unexpected_error", path=request.url.path, exc_info=error)
        response = _answer(500, "the server failed; its log says why")
        response.headers.update(headers_of(request.url.path))  # this handler runs outside of all middleware
        return response


def log_client_gone(scope: Scope) -> None:
    """Log that a client closed the connection before its request's body was complete."""
    client = scope["client"][0] if scope.get("client") else ""
    log.info("client_left", client=client, method=scope["method"], path=scope["path"][:MAX_SAID])


def _answer(status: int, said: str) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in RETRIED else None
    return JSONResponse({"error": said}, status, headers)
