"""A thin client of a running server: what the demo speaks, in V2's binary form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx
import numpy as np

from service.types import Array

HEADER_LENGTH = "Inference-Header-Content-Length"
DTYPES: Mapping[str, str] = {"FP32": "<f4", "INT64": "<i8"}


class RefusedError(Exception):
    """The server refused a call; the message is the server's own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An inference answer: arrays by output name, and the flat facts about it (`tta_*`)."""

    outputs: Mapping[str, Array]
    facts: Mapping[str, Any]


class Client:
    """Calls one server; close it, or use it in a `with` block."""

    def __init__(self, url: str, key: str | None = None, timeout_seconds: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_seconds)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def infer(self, model: str, input_name: str, x: Array, stream: str) -> Answer:
        """Send a batch x (N, C, H, W), float32 or uint8, to a stream.

        Raises:
            RefusedError: If the server refuses it.
        """
        datatype = {"float32": "FP32", "uint8": "UINT8"}[x.dtype.name]
        raw = np.ascontiguousarray(x).tobytes()
        size = {"binary_data_size": len(raw)}
        tensor = {"name": input_name, "shape": list(x.shape), "datatype": datatype, "parameters": size}
        request = {"inputs": [tensor], "parameters": {"sequence_id": stream, "binary_data_output": True}}
        header = json.dumps(request).encode()
        headers = {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        return _answer(self._send("POST", f"/v2/models/{model}/infer", content=header + raw, headers=headers))

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make a control call and return its JSON, or None if it has none.

        Raises:
            RefusedError: If the server refuses it.
        """
        response = self._send(method, path, **({"json": dict(body)} if body is not None else {}))
        return response.json() if response.content else None

    def _send(self, method: str, path: str, **settings: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **settings)
        except httpx.TransportError as error:
            raise RefusedError(f"no server answers at {self._http.base_url}: {error}") from None
        if response.is_error:
            raise RefusedError(_reason(response))
        return response


def _answer(response: httpx.Response) -> Answer:
    length = int(response.headers[HEADER_LENGTH])
    head, rest = json.loads(response.content[:length]), response.content[length:]
    outputs: dict[str, Array] = {}
    for tensor in head["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        outputs[tensor["name"]] = np.frombuffer(rest[:size], DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
        rest = rest[size:]
    return Answer(outputs, head["parameters"])


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}"
