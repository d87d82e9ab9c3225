"""POST /v2/models/{m}/infer: JSON, JSON with binary tensors, or images."""

import re
from collections.abc import Callable, Mapping
from functools import partial

from fastapi import APIRouter, Request, Response

from service.api.middleware.body import PARSING, read_aligned, read_body
from service.api.multipart import form_files
from service.api.problems import STATUS, responses
from service.errors import ServiceError, UnfitError, UnsupportedError
from service.models.hosted import HostedModel
from service.serving.dataplane import Dataplane
from service.types import InferRequest, Limits, WireTensor
from service.wire.codec import digest_of_files, encode_response, parse_request
from service.wire.decoding import Decoder

MAX_DIGITS = 18
SMALL_JSON, SMALL_BODY = 2**16, 2**20
"""Most bytes to parse and hash on the event loop: up to there, a hand-over to another thread takes longer."""
STREAM = "X-Stream-Id"
IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY = 255
KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")
HEADER_LENGTH = "Inference-Header-Content-Length"
JSON_TYPES = frozenset({"", "application/json", "application/octet-stream"})
IMAGE_TYPES = frozenset({"image/jpeg", "image/png"})
BINARY = {"type": "string", "format": "binary"}
FORM_SCHEMA = {"title": "InferForm", "type": "object", "properties": {"image": {"type": "array", "items": BINARY}}}
PARAMETERS: Mapping[str, dict[str, object]] = {
    "model": {"in": "path", "required": True, "schema": {"type": "string"}},
    "version": {"in": "path", "required": True, "schema": {"type": "string"}},
    STREAM: {"in": "header", "schema": {"type": "string"}},
    HEADER_LENGTH: {"in": "header", "schema": {"type": "integer", "minimum": 1}},
    IDEMPOTENCY_KEY: {"in": "header", "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"}},
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            "application/octet-stream": {"schema": BINARY},
            "image/jpeg": {"schema": BINARY},
            "image/png": {"schema": BINARY},
            "multipart/form-data": {"schema": FORM_SCHEMA},
        },
    },
}
ANSWERS: dict[int | str, dict[str, object]] = {
    200: {
        "description": "The answer, and flat facts about it (`tta_*`).",
        # JSON first: client generators use the first form that they support.
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferResponse"}},
            "application/octet-stream": {"schema": BINARY},
        },
    },
    **responses(400, 404, 409, 413, 415, 422, 429, 503, 504, 507),
}


def router(dataplane: Dataplane, decoder: Decoder, max_body_bytes: int) -> APIRouter:
    """Return the inference routes. They read their own parameters, since FastAPI takes longer than all the rest."""
    routes = APIRouter(tags=["V2 data plane"])

    async def infer(request: Request) -> Response:
        """Answer a batch and, unless the stream is frozen, learn from it.

        `parameters.sequence_id` or the header `X-Stream-Id` names the stream.
        """
        hosted = dataplane.model(request.path_params["model"], request.path_params.get("version"))
        try:
            response = await answer(request, hosted)
        except ServiceError as error:
            dataplane.count(hosted, STATUS[type(error)])
            raise
        dataplane.count(hosted, 200)
        return response

    async def answer(request: Request, hosted: HostedModel) -> Response:
        dataplane.check_open()  # a full server refuses before it reads the body
        spec, header = hosted.bundle.input, request.headers.get(STREAM, "")
        parsed = await _parse(request, dataplane.check_open, spec.name, decoder.limits, max_body_bytes)
        with dataplane.counting_failures(hosted):
            async with decoder.decoded(parsed, spec, header, partial(dataplane.place, hosted)) as decoded:
                answered = await dataplane.infer(hosted, decoded)
        body, length = encode_response(answered, parsed)
        if length is None:
            return Response(body, media_type="application/json")
        return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})

    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        operation = f"infer{'_version' if 'versions' in path else ''}"
        routes.add_api_route(
            path, infer, methods=["POST"], response_class=Response, responses=ANSWERS, openapi_extra=_schema(path),
            operation_id=operation,
        )  # fmt: skip
    return routes


def _schema(path: str) -> dict[str, object]:
    """Return the OpenAPI parameters and body of the operation at a path."""
    parameters = [
        {"name": name, **entry}
        for name, entry in PARAMETERS.items()
        if entry["in"] == "header" or f"{{{name}}}" in path
    ]
    return {"parameters": parameters, **BODY}


async def _parse(
    request: Request, check_open: Callable[[], None], input_name: str, limits: Limits, max_body_bytes: int
) -> InferRequest:
    """Read a request's body and parse it. `check_open` refuses while the server is full."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    key = _idempotency_key(request)
    if media_type in JSON_TYPES:
        header_length = _header_length(request)
        json_bytes = limits.json.bytes if header_length is None else header_length
        max_bytes = min(max_body_bytes, limits.json.bytes) if header_length is None else max_body_bytes
        body = await read_aligned(request, max_bytes, header_length or 0)
        check_open()  # the queue may have filled meanwhile, and parsing in vain would delay others
        if min(json_bytes, len(body)) > SMALL_JSON or len(body) > SMALL_BODY:
            return await PARSING.run(parse_request, body, header_length, limits, key)
        return parse_request(body, header_length, limits, key)
    if media_type in IMAGE_TYPES:
        files = [await read_body(request, max_body_bytes)]
    elif media_type == "multipart/form-data":
        form = await read_body(request, max_body_bytes)
        files = await PARSING.run(form_files, form, request.headers["content-type"])
    else:
        allowed = sorted({*JSON_TYPES, *IMAGE_TYPES, "multipart/form-data"} - {""})
        raise UnsupportedError(f"Content-Type is {media_type[:100]!r}, expected one of {', '.join(allowed)}")
    check_open()
    return _of_images(files, input_name, key)


def _idempotency_key(request: Request) -> str:
    """Return the request's idempotency key; "" if it has none."""
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return ""
    if len(keys) > 1:
        raise UnfitError(f"{IDEMPOTENCY_KEY} is given {len(keys)} times, expected once")
    if not KEY.fullmatch(keys[0]):
        expected = f"1 to {MAX_KEY} visible ASCII characters"
        raise UnfitError(f"{IDEMPOTENCY_KEY} is {keys[0][:100]!r} ({len(keys[0])} characters), expected {expected}")
    return keys[0]


def _header_length(request: Request) -> int | None:
    """Return the length in bytes of the JSON header before raw tensors; None if the body is all JSON."""
    length = request.headers.get(HEADER_LENGTH)
    if length is None:
        return None
    if not length.isdecimal() or len(length) > MAX_DIGITS:
        raise UnfitError(f"{HEADER_LENGTH} is {length[:100]!r}, expected a number of bytes such as 196")
    return int(length)


def _of_images(files: list[bytes], input_name: str, key: str) -> InferRequest:
    tensors = (WireTensor(input_name, (len(files),), "BYTES", files),)
    return InferRequest(tensors, key=key, digest=digest_of_files(files) if key else "")
