"""V2's routes about models: metadata, readiness, configuration, statistics, and the index."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from service.api import v2_schemas
from service.api.problems import responses
from service.models.hosted import HostedModel
from service.serving.dataplane import Dataplane
from service.telemetry.statistics import Statistics
from service.types import ON_REQUEST, OUTPUTS

PLATFORMS: Mapping[str, str] = MappingProxyType({"torch": "pytorch_module", "onnx": "onnx_onnxv1"})
PATHS = (("/v2/models/{model}", ""), ("/v2/models/{model}/versions/{version}", "_version"))
"""A model's path with and without its version, and the matching suffix of operation ids."""


def router(dataplane: Dataplane, models: dict[str, HostedModel], statistics: Statistics, max_batch: int) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["V2 data plane"])

    # Before the routes that would take `stats` as a model's name.
    @routes.get("/v2/models/stats", operation_id="all_statistics")
    async def all_statistics() -> v2_schemas.Statistics:
        """Counts and times of all models, in Triton's shape."""
        return v2_schemas.Statistics.model_validate({"model_stats": [_statistics(model) for model in models.values()]})

    def metadata(model: HostedModel) -> v2_schemas.ModelMetadata:
        """Inputs and outputs of a model."""
        return _metadata(model)

    def ready(model: HostedModel) -> v2_schemas.ModelReady:
        """200 if a model can answer."""
        return v2_schemas.ModelReady(name=model.name, ready=True)

    def config(model: HostedModel) -> v2_schemas.ModelConfig:
        """Triton's model configuration."""
        return _config(model, max_batch)

    def model_statistics(model: HostedModel) -> v2_schemas.Statistics:
        """Counts and times of one model, in Triton's shape."""
        return v2_schemas.Statistics.model_validate({"model_stats": [_statistics(model)]})

    def _statistics(model: HostedModel) -> dict[str, object]:
        return statistics.of(model.name, model.bundle.toml.version)

    _add(routes, dataplane, "", "metadata", metadata, v2_schemas.ModelMetadata)
    _add(routes, dataplane, "/ready", "ready", ready, v2_schemas.ModelReady)
    _add(routes, dataplane, "/config", "config", config, v2_schemas.ModelConfig)
    _add(routes, dataplane, "/stats", "statistics", model_statistics, v2_schemas.Statistics)

    @routes.post("/v2/repository/index", operation_id="repository_index")
    async def repository_index() -> list[v2_schemas.IndexEntry]:
        """All models of the repository. Every one is loaded."""
        return [
            v2_schemas.IndexEntry(name=model.name, version=model.bundle.toml.version, state="READY", reason="")
            for model in models.values()
        ]

    return routes


def _add(
    routes: APIRouter, dataplane: Dataplane, end: str, name: str, answer: Callable[[HostedModel], BaseModel],
    answered: type[BaseModel],
) -> None:  # fmt: skip
    """Serve an answer about a model, with and without its version in the path."""

    async def of_model(model: str) -> BaseModel:
        return answer(dataplane.model(model))

    async def of_version(model: str, version: str) -> BaseModel:
        return answer(dataplane.model(model, version))

    endpoints: tuple[Callable[..., Any], ...] = (of_model, of_version)
    for (path, suffix), endpoint in zip(PATHS, endpoints, strict=True):
        routes.add_api_route(
            f"{path}{end}", endpoint, operation_id=f"{name}{suffix}", response_model=answered,
            summary=f"Model {name}", description=answer.__doc__,
            responses=responses(404), response_model_exclude_none=True,
        )  # fmt: skip


def _metadata(model: HostedModel) -> v2_schemas.ModelMetadata:
    spec = model.bundle.input
    return v2_schemas.ModelMetadata(
        name=model.name,
        versions=[model.bundle.toml.version],
        platform=PLATFORMS[model.backend],
        inputs=[v2_schemas.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[-1, *spec.shape])],
        outputs=[
            v2_schemas.TensorMetadata(name=name, datatype=_datatype(name), shape=[-1, *_dimensions(name, model)])
            for name in (*OUTPUTS, *ON_REQUEST)
        ],
    )


def _config(model: HostedModel, max_batch: int) -> v2_schemas.ModelConfig:
    """Return the part of a model's configuration that clients read before they send requests.

    A stream is a sequence, so clients that follow the configuration send sequence ids.
    """
    spec = model.bundle.input
    return v2_schemas.ModelConfig(
        name=model.name,
        platform=PLATFORMS[model.backend],
        backend="acclimate",
        version_policy={"specific": {"versions": [model.bundle.toml.version]}},
        max_batch_size=max_batch,
        input=[v2_schemas.TensorConfig(name=spec.name, data_type=f"TYPE_{spec.datatype}", dims=list(spec.shape))],
        output=[_output(name, model) for name in (*OUTPUTS, *ON_REQUEST)],
        sequence_batching=v2_schemas.SequenceBatching(
            max_sequence_idle_microseconds=0,
            control_input=[
                v2_schemas.ControlInput(name=name, control=[v2_schemas.Control(kind=f"CONTROL_SEQUENCE_{name}")])
                for name in ("START", "END", "CORRID")
            ],
        ),
    )


def _output(name: str, model: HostedModel) -> v2_schemas.TensorConfig:
    dims = _dimensions(name, model)
    if not dims:  # Triton's configuration has no scalars: one element, reshaped to a scalar
        return v2_schemas.TensorConfig(
            name=name, data_type=f"TYPE_{_datatype(name)}", dims=[1], reshape=v2_schemas.Reshape(shape=[])
        )
    return v2_schemas.TensorConfig(name=name, data_type=f"TYPE_{_datatype(name)}", dims=dims)


def _datatype(output: str) -> str:
    return "INT64" if output == "labels" else "FP32"


def _dimensions(output: str, model: HostedModel) -> list[int]:
    """Return an output's dimensions after the batch dimension."""
    return [] if output == "labels" else [len(model.bundle.classes)]
