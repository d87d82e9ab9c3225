"""Bodies of V2 inference requests and responses: JSON, or a JSON header followed by raw tensors."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import orjson
import torch

from service.errors import MalformedError, UnfitError
from service.types import (
    Array,
    InferRequest,
    InferResponse,
    InputSpec,
    Limits,
    RequestedOutput,
    WireTensor,
)
from service.wire.fields import check_unique, objects, optional, parameters_of, required, shown
from service.wire.images import count_pixels, decode_images, scale_bytes
from service.wire.json_bounds import check_json
from service.wire.tensors import Declaration, datatype_of, read_json, read_raw, write_raw

_TOLERANCE = 1e-3
_UNCHECKED = 1024
"""JSON of up to this many bytes is too small to exceed any bound, so it is not checked."""
# If these were ignored, the answer would not be what the client expects, or not where it looks for it.
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
_REFUSED_OF_INPUTS = frozenset(_SHARED_MEMORY)
_REFUSED_OF_OUTPUTS = frozenset({"classification", *_SHARED_MEMORY})
_PERF_ANALYZER = "perf_analyzer: --input-data zero, or a file of inputs"


def parse_request(body: bytes | memoryview, header_length: int | None, limits: Limits, key: str = "") -> InferRequest:
    """Parse the body of a V2 inference request.

    Raw tensors become views of `body`, whatever their alignment. JSON cannot hold raw bytes, so in JSON the elements
    of a BYTES tensor (encoded images) are base64 strings. An optional field that is null counts as missing.

    Args:
        body: JSON, or a JSON header followed by raw little-endian tensors in the order of the inputs.
        header_length: Bytes of the JSON header, from `Inference-Header-Content-Length`; None if the body is all JSON.
        limits: Bounds on the batch size, on the number of dimensions and on JSON.
        key: The request's idempotency key; "" for none.

    Raises:
        MalformedError: The body is not a V2 request, or it is truncated.
        UnfitError: A datatype is unknown, or the values do not match their datatype and shape.
        TooLargeError: A first dimension, the batch, or the JSON part exceeds its limit.

    >>> body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}]}'
    >>> parse_request(body, None, Limits()).inputs[0].data
    array([[0.5, 1. ]], dtype=float32)
    """
    header, rest = _split(body, header_length)
    document = _document(header, limits)
    parameters = parameters_of(document, "The request")
    binary_output = optional(parameters, "binary_data_output", bool, "The request") or False
    parameters.pop("binary_data_output", None)
    request_id = optional(document, "id", str, "The request") or ""
    entries = _inputs(document)
    blocks = _blocks(entries, rest)
    outputs = _outputs(document)
    return InferRequest(
        inputs=tuple(_tensor(entry, block, limits) for entry, block in zip(entries, blocks, strict=True)),
        id=request_id,
        key=key,
        digest=_digest(body, header_length) if request_id or key else "",
        parameters=parameters,
        outputs=outputs,
        binary_output=binary_output,
    )


def digest_of_files(files: Sequence[bytes]) -> str:
    """Return the digest of a request that consists of files. A form's boundary text does not change it."""
    return hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files)).hexdigest()


def decode_input(request: InferRequest, spec: InputSpec, limits: Limits) -> torch.Tensor:
    """Turn a request's only input into the model's input tensor.

    FP32 values are used unchanged, UINT8 is mapped from 0-255 onto the value range, and BYTES are encoded images
    (JPEG, PNG).

    Args:
        request: A parsed request.
        spec: The model's input.
        limits: Bounds on encoded images.

    Returns:
        (N, C, H, W) float32, contiguous, within `spec.value_range`. It shares the request's memory if the request
        holds FP32 that is aligned and writable; otherwise it is a copy.

    Raises:
        UnfitError: The input's name, datatype or shape is not the model's; a value is not finite or lies outside the
            value range by more than a thousandth of its width; or an image is unreadable.
        TooLargeError: The images exceed the limits.
    """
    tensor = _only_input(request, spec)
    if tensor.datatype == "BYTES":
        return decode_images(_files(tensor), spec, limits)
    if tensor.datatype not in ("FP32", "UINT8"):
        raise UnfitError(f"Input {spec.name!r} is {tensor.datatype}; FP32, UINT8 or BYTES (encoded images) is expected")
    if tensor.shape[1:] != spec.shape:
        raise UnfitError(f"Input {spec.name!r} has shape {list(tensor.shape)}; {['N', *spec.shape]} is expected")
    values = np.require(tensor.data, requirements=("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))  # copies only if needed
    if tensor.datatype == "UINT8":
        return scale_bytes(torch.from_numpy(values), spec)
    _check_range(values, spec)
    return torch.from_numpy(values)


def pixels_of(request: InferRequest, spec: InputSpec, limits: Limits) -> int:
    """Return the number of pixels in a request's encoded images, read from the images' headers.

    Raises:
        UnfitError: The input is not the model's, or an image is unreadable.
        TooLargeError: The images exceed the limits.
    """
    return count_pixels(_files(_only_input(request, spec)), spec, limits)


def wanted_outputs(request: InferRequest, available: Sequence[str], on_request: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the outputs to answer with: those that the request names, or else the default ones.

    Args:
        request: A parsed request.
        available: All outputs of the model.
        on_request: Outputs that are not sent by default.

    Raises:
        UnfitError: The request names an output that does not exist.

    >>> wanted_outputs(InferRequest(()), ("logits", "labels", "source_probabilities"), ("source_probabilities",))
    ('logits', 'labels')
    """
    if not request.outputs:
        return tuple(name for name in available if name not in on_request)
    for output in request.outputs:
        if output.name not in available:
            raise UnfitError(f"There is no output {shown(output.name)}; there are: {', '.join(available)}")
    return tuple(output.name for output in request.outputs)


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Encode a response. Each output is JSON or raw bytes after the JSON header, as the request asks.

    Returns:
        The body, and the length in bytes of its JSON header (`Inference-Header-Content-Length`); the length is None if
        the whole body is JSON. Values in JSON are flat, in row-major order; NaN and infinities become null.

    Raises:
        UnfitError: The request names an output that the response does not hold.
    """
    binary = {o.name: request.binary_output if o.binary is None else o.binary for o in request.outputs}
    outputs: list[dict[str, Any]] = []
    blocks: list[bytes] = []
    for name in wanted_outputs(request, tuple(response.outputs)):
        array = response.outputs[name]
        entry: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype_of(array)}
        if binary.get(name, request.binary_output):
            blocks.append(write_raw(array))
            entry["parameters"] = {"binary_data_size": len(blocks[-1])}
        else:
            entry["data"] = _flat(array)
        outputs.append(entry)
    header = orjson.dumps(_head(response) | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((header, *blocks)), len(header)) if blocks else (header, None)


def _head(response: InferResponse) -> dict[str, Any]:
    head: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        head["id"] = response.id
    if response.parameters:
        head["parameters"] = dict(response.parameters)
    return head


def _flat(array: Array) -> Array:
    # orjson accepts only contiguous arrays in native byte order.
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(-1)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A well-formed input: its JSON values, or None and the size of its raw block in bytes."""

    declared: Declaration
    data: list[Any] | None
    size: int


def _split(body: bytes | memoryview, header_length: int | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[:0]
    if header_length == 0:
        raise MalformedError("Inference-Header-Content-Length is 0: raw requests without a JSON header are not served")
    if not 0 < header_length <= len(body):
        problem = f"Inference-Header-Content-Length is {header_length}"
        raise MalformedError(f"{problem}; 1 to {len(body)}, the length of the body, is expected")
    return view[:header_length], view[header_length:]


def _digest(body: bytes | memoryview, header_length: int | None) -> str:
    digest = hashlib.sha256(f"{header_length}\n".encode())
    digest.update(body)
    return digest.hexdigest()


def _document(header: memoryview, limits: Limits) -> dict[str, Any]:
    if len(header) > _UNCHECKED:
        check_json(header, limits.json)
    try:
        document = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"The body (or its JSON header) is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MalformedError(f"The request is {shown(document)}; an object with inputs is expected")
    return document


def _input(value: dict[str, Any]) -> _Entry:
    where = f"Input {shown(value.get('name'))}"
    shape: list[Any] = required(value, "shape", list, where)
    if any(type(dimension) is not int for dimension in shape):
        raise MalformedError(f"{where}: shape is {shown(shape)}; integers are expected")
    name, datatype = required(value, "name", str, where), required(value, "datatype", str, where)
    parameters = parameters_of(value, where)
    _refuse(parameters, _REFUSED_OF_INPUTS, where, "tensors in the body")
    size = optional(parameters, "binary_data_size", int, where)
    data = optional(value, "data", list, where)
    if (data is None) == (size is None):
        raise MalformedError(f"{where}: either data or the parameter binary_data_size is expected")
    if size is not None and size < 0:
        raise MalformedError(f"{where}: binary_data_size is {size}; 0 or more is expected")
    return _Entry(Declaration(name, tuple(shape), datatype), data, size or 0)


def _inputs(document: dict[str, Any]) -> list[_Entry]:
    entries = [_input(value) for value in objects(document, "inputs", "The request")]
    if not entries:
        raise MalformedError("The request has no inputs; an array of at least one is expected")
    check_unique([entry.declared.name for entry in entries], "inputs")
    return entries


def _blocks(entries: Sequence[_Entry], rest: memoryview) -> list[memoryview]:
    """Cut the bytes after the JSON header into one block for each input; inputs in JSON get an empty block."""
    total = sum(entry.size for entry in entries)
    if total != len(rest):
        problem = f"{len(rest)} bytes follow the JSON header (see Inference-Header-Content-Length)"
        raise MalformedError(f"{problem}; the inputs' binary_data_size add up to {total}")
    ends = accumulate(entry.size for entry in entries)
    return [rest[end - entry.size : end] for entry, end in zip(entries, ends, strict=True)]


def _tensor(entry: _Entry, block: memoryview, limits: Limits) -> WireTensor:
    declared = entry.declared
    declared.check(limits)
    data = read_raw(declared, block) if entry.data is None else read_json(declared, entry.data)
    return WireTensor(declared.name, declared.shape, declared.datatype, data)


def _outputs(document: dict[str, Any]) -> tuple[RequestedOutput, ...]:
    outputs = tuple(_output(value) for value in objects(document, "outputs", "The request"))
    check_unique([output.name for output in outputs], "outputs")
    return outputs


def _output(value: dict[str, Any]) -> RequestedOutput:
    where = f"Output {shown(value.get('name'))}"
    name, parameters = required(value, "name", str, where), parameters_of(value, where)
    _refuse(parameters, _REFUSED_OF_OUTPUTS, where, "plain outputs")
    return RequestedOutput(name, optional(parameters, "binary_data", bool, where))


def _refuse(parameters: dict[str, Any], names: frozenset[str], where: str, served: str) -> None:
    """Raise UnfitError if a parameter would change where tensors are stored or what they hold."""
    refused = names.intersection(parameters)
    if refused:
        raise UnfitError(f"{where}: {', '.join(sorted(refused))} is not served; {served} are")


def _only_input(request: InferRequest, spec: InputSpec) -> WireTensor:
    names = [tensor.name for tensor in request.inputs]
    if names != [spec.name]:
        raise UnfitError(f"The inputs are {shown(names)}; exactly one, {spec.name!r}, is expected")
    return request.inputs[0]


def _files(tensor: WireTensor) -> list[bytes]:
    if not isinstance(tensor.data, list) or tensor.shape[1:] not in ((), (1,)):
        problem = f"Input {shown(tensor.name)} of encoded images has shape {list(tensor.shape)}"
        raise UnfitError(f"{problem}; ['N'] or ['N', 1] is expected")
    return tensor.data


def _check_range(values: Array, spec: InputSpec) -> None:
    # NumPy, because it uses this thread alone: PyTorch's threads would keep spinning and compete with the worker's.
    lowest, highest = float(values.min()), float(values.max())  # both are NaN if any value is
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        problem = f"Input {spec.name!r} holds NaN or infinite values; finite ones are expected"
        raise UnfitError(f"{problem} ({_PERF_ANALYZER})")
    low, high = spec.value_range
    slack = _TOLERANCE * (high - low)
    if lowest < low - slack or highest > high + slack:
        problem = f"Input {spec.name!r} holds values from {lowest:.6g} to {highest:.6g}"
        raise UnfitError(
            f"{problem}; {low:g} to {high:g} is expected (is the tensor already standardised? {_PERF_ANALYZER})"
        )
