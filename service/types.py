"""Types that several packages of the server share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Parameter: TypeAlias = str | int | float | bool
"""A V2 parameter's value."""
Mode: TypeAlias = Literal["adapt", "frozen", "shadow"]
"""A stream's mode: learn from each request, answer only, or learn without effect on the answers."""
Durability: TypeAlias = Literal["ephemeral", "periodic", "sync"]
"""Saving of a stream's state: never, every few steps or seconds, or before each answer."""
Array: TypeAlias = npt.NDArray[np.generic]
LARGEST_BATCH = 4096
"""Largest adaptation batch of a stream, in images."""
MAX_NOTE = 4096
"""Most characters in a snapshot's note."""
OUTPUTS = ("logits", "probabilities", "labels")
"""The outputs of an answer, unless a request names others."""
ON_REQUEST = ("source_probabilities",)
"""Outputs that a request must name."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A model's input: one float tensor (N, *shape) within `value_range`, before mean and std.

    Attributes:
        name: The tensor's name on the wire.
        shape: (channels, height, width).
        datatype: The declared V2 datatype, FP32.
        value_range: Lowest and highest value of a pixel.
        mean, std: One value per channel, applied inside the prepared model.
        resize: For encoded images of other sizes: `stretch`, `crop` (shorter side, then centre), or refuse (`exact`).
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
    """An event about a stream, before it is logged.

    Attributes:
        kind: drift, guard, reset, and so on.
        reason: The cause, in words.
        action: The action taken; "" for none.
        figures: The numbers behind it.
    """

    kind: str
    reason: str
    action: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """Limits on one JSON text. Containers are counted since even an empty array takes 140 bytes once it is parsed."""

    bytes: int = 8 * 2**20
    containers: int = 250_000
    keys: int = 100_000
    values: int = 2_000_000
    depth: int = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one request."""

    max_batch: int = 256
    max_pixels: int = 16_000_000
    max_json_depth: int = 8
    json: JsonLimits = JsonLimits()


@dataclass(frozen=True, slots=True)
class WireTensor:
    """A tensor as received: an array of the declared shape, or encoded images as a list of bytes (BYTES)."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Array | list[bytes]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """A requested output, and its encoding: binary or not, or None for the request's default."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed inference request.

    Attributes:
        inputs: Its tensors.
        id: Its id from the client; "" for none.
        key: Its idempotency key; "" for none.
        digest: sha256 of the body, to recognise a retry; "" without an id or key.
        parameters: Its flat parameters.
        outputs: The requested outputs; () for all.
        binary_output: True if outputs are raw bytes by default.
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
    """An answer before encoding: outputs by name, in order, and flat parameters."""

    model: str
    version: str
    id: str
    parameters: Mapping[str, Parameter]
    outputs: Mapping[str, Array]
