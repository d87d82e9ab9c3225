"""Answers of the V2 data plane other than inference, and the schemas of inference bodies."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Parameters = dict[str, str | int | float | bool]


class V2(BaseModel):
    """An answer of the Open Inference Protocol, with Triton's extensions."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class ServerMetadata(V2):
    """The server's name, version and protocol extensions."""

    name: str
    version: str
    extensions: list[str]


class Live(V2):
    """Liveness: true if the process answers."""

    live: bool


class Ready(V2):
    """Readiness: true if the server takes requests."""

    ready: bool
    reason: str = ""
    """The trouble that makes the server not ready."""


class TensorMetadata(V2):
    """A tensor's name, datatype and shape; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(V2):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(V2):
    """Readiness of a model."""

    name: str
    ready: bool


class Reshape(V2):
    """The shape that a tensor has instead of its dims."""

    shape: list[int]


class TensorConfig(V2):
    """A tensor in a model's configuration; `dims` do not include the batch."""

    name: str
    data_type: str
    dims: list[int]
    reshape: Reshape | None = None


class Control(V2):
    """A control signal of a sequence."""

    kind: str


class ControlInput(V2):
    """The control signals that a request can carry as its parameters."""

    name: str
    control: list[Control]


class SequenceBatching(V2):
    """Sequence support; 0 microseconds means that idle sequences stay."""

    max_sequence_idle_microseconds: int
    control_input: list[ControlInput]


class ModelConfig(V2):
    """Triton's model configuration, with the fields that clients read."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, dict[str, list[str]]]
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    sequence_batching: SequenceBatching


class Duration(V2):
    """The count of an operation, and its total time in nanoseconds."""

    count: int
    ns: int


class InferStatistics(V2):
    """A model's requests and the time spent in each phase."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(V2):
    """A model's activity since the start of the server."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[dict[str, int]]


class Statistics(V2):
    """Statistics of models."""

    model_stats: list[ModelStatistics]


class IndexEntry(V2):
    """A model of the repository."""

    name: str
    version: str
    state: Literal["READY"]
    reason: str


class InferOutput(V2):
    """An output tensor: values in row-major order, or with `binary_data_size` bytes after the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | None = None
    """null stands for a value that is not finite."""


class InferResponse(V2):
    """An answer, and flat facts about it (`tta_*`)."""

    model_name: str
    model_version: str
    id: str
    parameters: Parameters
    outputs: list[InferOutput]


class InferInput(V2):
    """An input tensor: values in row-major order, or with `binary_data_size` bytes after the JSON."""

    name: str
    shape: list[int]
    datatype: str
    """FP32, UINT8, or BYTES for encoded images, which are base64 strings in JSON."""
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferRequestedOutput(V2):
    """An output to return."""

    name: str
    parameters: Parameters | None = None


class InferRequest(V2):
    """A batch to answer; `parameters.sequence_id` names its stream."""

    id: str | None = None
    parameters: Parameters | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1)]
    outputs: list[InferRequestedOutput] | None = None
