"""Inference requests in binary form, with ids: what is sent can be sent again, byte for byte."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpx
import numpy as np

from service.client.inference import HEADER_LENGTH, read_answer, request_body

MODEL, INPUT = "fashion", "input"


@dataclass(frozen=True)
class Request:
    """One batch for one stream, made from its seed."""

    stream: str
    id: str
    seed: int
    images: int = 4

    @property
    def x(self) -> np.ndarray:
        """The images (N, 1, 28, 28)."""
        return np.random.default_rng(self.seed).random((self.images, 1, 28, 28), dtype=np.float32)


@dataclass(frozen=True)
class Answer:
    """An acknowledged request, and what it was told."""

    request: Request
    facts: Mapping[str, Any]
    outputs: Mapping[str, np.ndarray]

    @property
    def generation(self) -> int:
        """The stream's generation after the request."""
        return int(self.facts["tta_generation"])

    @property
    def durable_generation(self) -> int:
        """The last generation that a crash leaves."""
        return int(self.facts["tta_durable_generation"])

    @property
    def steps(self) -> int:
        """The steps that the stream has learned from."""
        return int(self.facts["tta_steps"])

    def same_as(self, other: "Answer") -> bool:
        """Whether both say the same, bit for bit."""
        return self.generation == other.generation and self.same_outputs(other)

    def same_outputs(self, other: "Answer") -> bool:
        """Whether both hold the same outputs, bit for bit."""
        return self.outputs.keys() == other.outputs.keys() and all(
            np.array_equal(array, other.outputs[name]) for name, array in self.outputs.items()
        )


@lru_cache(maxsize=1024)
def encoded(request: Request) -> tuple[bytes, Mapping[str, str]]:
    """Return a request's body and headers."""
    return request_body(INPUT, request.x, request.stream, request.id)


def post(client: httpx.Client, request: Request) -> httpx.Response:
    """Send a request, whatever comes of it."""
    body, headers = encoded(request)
    return client.post(f"/v2/models/{MODEL}/infer", content=body, headers=dict(headers))


def infer(client: httpx.Client, request: Request) -> Answer:
    """Send a request that must be answered."""
    response = post(client, request)
    assert response.status_code == 200, f"{request}: {response.status_code} {response.text}"
    return answer_of(request, response)


def answer_of(request: Request, response: httpx.Response) -> Answer:
    """Read an answer."""
    read = read_answer(response.content, int(response.headers[HEADER_LENGTH]))
    assert read.id == request.id
    return Answer(request, read.facts, read.outputs)
