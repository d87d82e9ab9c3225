"""The shapes that cross borders inside the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Parameter: TypeAlias = str | int | float | bool
"""What V2 allows as a parameter's value."""
Array: TypeAlias = npt.NDArray[np.generic]
LARGEST_BATCH = 4096
"""Most images that a stream may be set to wait for."""
MAX_NOTE = 4096
"""Most characters of a snapshot's note."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model takes: one float tensor (N, *shape) within `value_range`, before mean and std.

    Attributes:
        name: The tensor's name on the wire.
        shape: (channels, height, width).
        datatype: The declared V2 datatype, FP32.
        value_range: Lowest and highest value of a pixel.
        mean, std: Per channel, applied inside the prepared model.
        resize: `stretch` encoded images, `crop` them (shorter side, then centre), or refuse other sizes (`exact`).
    """

    name: str
    shape: tuple[int, int, int]
    datatype: str = "FP32"
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: str = "stretch"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something worth telling of a stream.

    Attributes:
        kind: drift, guard, probe, reset, and so on.
        reason: Why, in words.
        action: What was done; "" for nothing.
        figures: The figures that it rests on.
    """

    kind: str
    reason: str
    action: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """The most that one JSON text may hold. An empty array takes 70 times its two bytes once it is parsed."""

    bytes: int = 8 * 2**20
    containers: int = 250_000
    keys: int = 100_000
    values: int = 2_000_000
    depth: int = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one request may carry."""

    max_batch: int = 256
    max_pixels: int = 16_000_000
    max_json_depth: int = 8
    json: JsonLimits = JsonLimits()


@dataclass(frozen=True, slots=True)
class WireTensor:
    """A tensor as it came: an array of the declared shape, or encoded images as a list of bytes (BYTES)."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Array | list[bytes]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the client asks for, and whether as binary data (None: as the request's default)."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed inference request.

    Attributes:
        inputs: Its tensors.
        id: Its id, as the client gave it; "" for none.
        key: Its idempotency key; "" for none.
        digest: sha256 of the body, by which a retry is recognised; "" if it has neither id nor key.
        parameters: Its flat parameters.
        outputs: The outputs that it asks for; () for all.
        binary_output: Whether outputs are raw bytes where they do not say otherwise.
    """

    inputs: tuple[WireTensor, ...]
    id: str = ""
    key: str = ""
    digest: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    outputs: tuple[RequestedOutput, ...] = ()
    binary_output: bool = False


@dataclass(frozen=True, slots=True)
class InferResponse:
    """An answer before it is encoded: outputs by name, in order, and flat parameters."""

    model: str
    version: str
    id: str
    parameters: Mapping[str, Parameter]
    outputs: Mapping[str, Array]
