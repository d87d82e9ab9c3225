"""Encoding of a batch as a V2 binary request, and decoding of its answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.types import Array

HEADER_LENGTH = "Inference-Header-Content-Length"
SENT: Mapping[str, str] = {"float32": "FP32", "uint8": "UINT8"}
ANSWERED: Mapping[str, str] = {"FP32": "<f4", "INT64": "<i8"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An inference answer: arrays by output name, its parameters (`tta_*`), and the request id for feedback."""

    outputs: Mapping[str, Array]
    facts: Mapping[str, Any]
    id: str = ""


def request_body(input_name: str, x: Array, stream: str | None, request_id: str | None) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request for a batch x (N, C, H, W), float32 or uint8.

    Raises:
        ValueError: If x has another dtype.
    """
    if x.dtype.name not in SENT:
        raise ValueError(f"the batch is {x.dtype.name}, expected one of {', '.join(SENT)}")
    raw = np.ascontiguousarray(x).tobytes()
    tensor = {
        "name": input_name,
        "shape": list(x.shape),
        "datatype": SENT[x.dtype.name],
        "parameters": {"binary_data_size": len(raw)},
    }
    named = {} if stream is None else {"sequence_id": stream}
    request: dict[str, Any] = {"inputs": [tensor], "parameters": {**named, "binary_data_output": True}}
    header = json.dumps(request if request_id is None else {"id": request_id, **request}).encode()
    return header + raw, {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}


def read_answer(content: bytes, header_length: int) -> Answer:
    """Decode the body of a binary answer."""
    head, rest = json.loads(content[:header_length]), content[header_length:]
    outputs: dict[str, Array] = {}
    for tensor in head["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        outputs[tensor["name"]] = np.frombuffer(rest[:size], ANSWERED[tensor["datatype"]]).reshape(tensor["shape"])
        rest = rest[size:]
    return Answer(outputs, head["parameters"], str(head.get("id", "")))
