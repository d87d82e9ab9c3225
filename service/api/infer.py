"""POST /v2/models/{m}/infer: JSON, JSON with binary tensors, or images."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from starlette.datastructures import UploadFile

from service.api.body import read_body
from service.api.problems import STATUS, responses
from service.codec import encode_response, parse_request
from service.dataplane import Dataplane
from service.errors import MalformedError, ServiceError, UnsupportedError
from service.hosting import HostedModel
from service.types import InferRequest, WireTensor

HEADER_LENGTH = "Inference-Header-Content-Length"
JSON_TYPES = frozenset({"", "application/json", "application/octet-stream"})
IMAGE_TYPES = frozenset({"image/jpeg", "image/png"})
TENSOR_SCHEMA = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "examples": ["FP32", "UINT8", "BYTES"]},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
REQUEST_SCHEMA = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "items": TENSOR_SCHEMA},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}
RESPONSE_SCHEMA = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {"type": "array", "items": TENSOR_SCHEMA},
    },
}
BINARY = {"type": "string", "format": "binary"}
FORM_SCHEMA = {"type": "object", "properties": {"image": {"type": "array", "items": BINARY}}}
OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": REQUEST_SCHEMA},
            "image/jpeg": {"schema": BINARY},
            "image/png": {"schema": BINARY},
            "multipart/form-data": {"schema": FORM_SCHEMA},
        },
    },
}
ANSWERS: dict[int | str, dict[str, object]] = {
    200: {
        "description": "The answer, and flat facts about it (`tta_*`).",
        "content": {"application/json": {"schema": RESPONSE_SCHEMA}, "application/octet-stream": {"schema": BINARY}},
    },
    **responses(400, 404, 409, 413, 415, 422, 429, 503, 504, 507),
}


def router(dataplane: Dataplane, max_body_bytes: int) -> APIRouter:
    """Return the inference routes."""
    routes = APIRouter(tags=["V2 data plane"])

    async def infer(
        request: Request,
        model: str,
        version: str | None = None,
        x_stream_id: Annotated[str, Header()] = "",
        inference_header_content_length: Annotated[int | None, Header(ge=0)] = None,
    ) -> Response:
        """Answer a batch and, unless the stream is frozen, learn from it.

        The stream is named by `parameters.sequence_id` or the header `X-Stream-Id`.
        """
        hosted = dataplane.model(model, version)
        try:
            response = await answer(request, hosted, x_stream_id, inference_header_content_length)
        except ServiceError as error:
            dataplane.count(hosted, STATUS[type(error)])
            raise
        dataplane.count(hosted, 200)
        return response

    async def answer(request: Request, hosted: HostedModel, stream_id: str, header_length: int | None) -> Response:
        dataplane.check_open()  # before the body is read: a full server has better to do
        parsed = await _parse(request, dataplane, hosted.bundle.input.name, max_body_bytes, header_length)
        answered = await dataplane.infer(hosted, parsed, stream_id)
        body, length = encode_response(answered, parsed)
        if length is None:
            return Response(body, media_type="application/json")
        return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})

    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        operation = f"infer{'_version' if 'versions' in path else ''}"
        routes.add_api_route(
            path, infer, methods=["POST"], response_class=Response, responses=ANSWERS, openapi_extra=OPENAPI,
            operation_id=operation,
        )  # fmt: skip
    return routes


async def _parse(
    request: Request, dataplane: Dataplane, input_name: str, max_body_bytes: int, header_length: int | None
) -> InferRequest:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in JSON_TYPES:
        return parse_request(await read_body(request, max_body_bytes), header_length, dataplane.limits)
    if media_type in IMAGE_TYPES:
        return _of_images([await read_body(request, max_body_bytes)], input_name)
    if media_type == "multipart/form-data":
        return _of_images(await _form_files(request, max_body_bytes), input_name)
    allowed = sorted({*JSON_TYPES, *IMAGE_TYPES, "multipart/form-data"} - {""})
    raise UnsupportedError(f"Content-Type is {media_type[:100]!r}, expected one of {', '.join(allowed)}")


async def _form_files(request: Request, max_body_bytes: int) -> list[bytes]:
    body = await read_body(request, max_body_bytes)

    async def replay() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async with Request(request.scope, replay).form(max_files=1024, max_fields=16) as form:
        uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        files = [await upload.read() for upload in uploads]
    if not files:
        raise MalformedError(
            "the form holds no file; expected one or more JPEG or PNG files, as in curl -F image=@a.jpg"
        )
    return files


def _of_images(files: list[bytes], input_name: str) -> InferRequest:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file).digest())
    return InferRequest(digest.hexdigest(), (WireTensor(input_name, (len(files),), "BYTES", files),))
