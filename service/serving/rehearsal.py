"""Sends whole requests to a model without a server, from body to body, for `acclimate bundle check`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import torch
from torch import Tensor

from adapters.choosing.adapter import ChoosingFit
from service.errors import ServiceError, UnfitError
from service.models.hosted import FROZEN, Fitted, HostedModel
from service.serving.dataplane import response_of
from service.streams import engine
from service.streams.stream import Stream
from service.streams.value import Config, first_value
from service.types import ON_REQUEST, OUTPUTS, Limits
from service.wire import codec

AUTO = "auto"
IMAGES = (1, 2, 16)
"""Images per request: one, a few, and enough to learn well."""
REQUESTS = 2
"""Requests of each size on one stream. The second one is answered by a state that has learned from the first."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that could not be answered."""

    spec: str
    images: int
    reason: str

    def __str__(self) -> str:
        return f"{self.spec} fails on a request of {self.images} image{'s' * (self.images > 1)}: {self.reason}"


def unfit_for_auto(model: HostedModel) -> str:
    """Return the reason why `auto` cannot serve a model; "" if it can."""
    try:
        model.fit(AUTO, {})
    except UnfitError as error:
        return str(error)
    return ""


def rehearse(model: HostedModel) -> list[Failure]:
    """Answer requests of several sizes as the frozen model, by the default spec, and by `auto` if it fits."""
    specs = [FROZEN, model.default.spec, *([] if unfit_for_auto(model) else [AUTO])]
    return [failure for spec in dict.fromkeys(specs) for failure in _of_spec(model, model.fit(spec, {}))]


def _of_spec(model: HostedModel, fitted: Fitted) -> Iterator[Failure]:
    for images in IMAGES:
        try:
            reason = _served(model, fitted, model.sample(images))
        except Exception as error:  # noqa: BLE001 - a network may raise anything, and all of it is reported
            reason = str(error) if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
        if reason:
            yield Failure(fitted.spec, images, reason)


def _served(model: HostedModel, fitted: Fitted, x: Tensor) -> str:
    """Answer x several times on a new stream; return the reason why an answer is wrong, or "".

    Raises:
        Exception: Any error that a request raises.
    """
    stream = Stream("rehearsal", first_value(Config(model, fitted)))
    for number in range(REQUESTS):
        request = codec.parse_request(*_body(model, x, number), Limits())
        requested = codec.wanted_outputs(request, (*OUTPUTS, *ON_REQUEST), ON_REQUEST)
        decoded = codec.decode_input(request, model.bundle.input, Limits())
        served = engine.serve(stream.current, decoded, wants_source=True, source_check_every=1)
        stream.current = served.value
        model.watch.layers(served.value.state.monitors.seen)
        codec.encode_response(response_of(stream, served, request.id, requested, named=True), request)
        if served.decision.rule == "non_finite":
            return served.decision.reason
        if not bool(torch.isfinite(served.output.probabilities).all()):
            return "its answer is not finite"
    return _alternatives(fitted.prepared, x)


def _alternatives(prepared: Any, x: Tensor) -> str:
    """Take a step of each pipeline that a selector may choose; name one whose answer is not finite, or return ""."""
    for name, pipeline in prepared.pipelines.items() if isinstance(prepared, ChoosingFit) else ():
        fit = prepared.fits[name]
        output, _ = pipeline.step(fit, fit.initial, x)
        if not bool(torch.isfinite(output.probabilities).all()):
            return f"the answer of {pipeline.spec}, for the situation {name}, is not finite"
    return ""


def _body(model: HostedModel, x: Tensor, number: int) -> tuple[bytes, int]:
    """Return a request's body with raw numbers, and the length of its JSON header. Odd numbers ask for a raw answer."""
    raw = x.numpy().tobytes()
    tensor = {
        "name": model.bundle.input.name, "shape": list(x.shape), "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    parameters = {"sequence_id": "rehearsal", "binary_data_output": bool(number % 2)}
    header = orjson.dumps({"id": str(number), "parameters": parameters, "inputs": [tensor]})
    return header + raw, len(header)
