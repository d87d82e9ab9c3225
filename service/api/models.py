"""What is served: models and adapter parts."""

from fastapi import APIRouter

from adapters.base import Part
from adapters.options import json_schema
from adapters.registry import FOLDERS, kind_of, parts
from service.api.problems import responses
from service.api.schemas import AdapterList, AdapterPart, GroupView, ModelList, ModelView, NativeView, PipelineView
from service.dataplane import ON_REQUEST, OUTPUTS, Dataplane
from service.hosting import Fitted, HostedModel
from service.statistics import Statistics

PLATFORMS = {"torch": "pytorch_module", "onnx": "onnx_onnxv1"}


def router(dataplane: Dataplane, models: dict[str, HostedModel], statistics: Statistics) -> APIRouter:
    """Return the routes about models and parts."""
    routes = APIRouter()
    routes.include_router(_v2(dataplane, models, statistics))

    @routes.get("/v1/models", tags=["control plane"])
    async def list_models() -> ModelList:
        """All served models."""
        return ModelList(items=[_view(model) for model in models.values()])

    @routes.get("/v1/models/{model}", tags=["control plane"], responses=responses(404))
    async def get_model(model: str) -> ModelView:
        """One served model."""
        return _view(dataplane.model(model))

    @routes.get("/v1/adapters", tags=["control plane"])
    async def list_adapters() -> AdapterList:
        """Every part that a spec may name, with the JSON Schema of its options."""
        return AdapterList(
            items=[_part(part) for kind in FOLDERS for part in parts(kind).values() if part.name != "none"]
        )

    return routes


def _v2(dataplane: Dataplane, models: dict[str, HostedModel], statistics: Statistics) -> APIRouter:
    routes = APIRouter(tags=["V2 data plane"])

    @routes.get("/v2/models/stats")  # before the routes that would take `stats` for a model's name
    async def all_statistics() -> dict[str, object]:
        """Counts and times of all models, in Triton's shape."""
        return {"model_stats": [statistics.of(model.name, model.bundle.toml.version) for model in models.values()]}

    async def metadata(model: str, version: str | None = None) -> dict[str, object]:
        """Inputs and outputs of a model."""
        return _metadata(dataplane.model(model, version))

    async def model_ready(model: str, version: str | None = None) -> dict[str, object]:
        """Whether a model answers."""
        return {"name": dataplane.model(model, version).name, "ready": True}

    for path, suffix in (("/v2/models/{model}", ""), ("/v2/models/{model}/versions/{version}", "_version")):
        routes.add_api_route(path, metadata, operation_id=f"metadata{suffix}", responses=responses(404))
        routes.add_api_route(f"{path}/ready", model_ready, operation_id=f"ready{suffix}", responses=responses(404))

    @routes.get("/v2/models/{model}/stats", responses=responses(404))
    async def model_statistics(model: str) -> dict[str, object]:
        """Counts and times of one model, in Triton's shape."""
        hosted = dataplane.model(model)
        return {"model_stats": [statistics.of(hosted.name, hosted.bundle.toml.version)]}

    @routes.post("/v2/repository/index")
    async def repository_index() -> list[dict[str, str]]:
        """All models of the repository; every one is loaded."""
        return [
            {"name": model.name, "version": model.bundle.toml.version, "state": "READY", "reason": ""}
            for model in models.values()
        ]

    return routes


def _metadata(model: HostedModel) -> dict[str, object]:
    spec, classes = model.bundle.input, len(model.bundle.classes)
    return {
        "name": model.name,
        "versions": [model.bundle.toml.version],
        "platform": PLATFORMS[model.backend],
        "inputs": [{"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}],
        "outputs": [
            {
                "name": name,
                "datatype": "INT64" if name == "labels" else "FP32",
                "shape": [-1] if name == "labels" else [-1, classes],
            }
            for name in (*OUTPUTS, *ON_REQUEST)
        ],
    }


def _view(model: HostedModel) -> ModelView:
    toml = model.bundle.toml
    return ModelView(
        name=toml.name,
        version=toml.version,
        description=toml.description,
        licence=toml.licence,
        fingerprint=model.bundle.fingerprint,
        backend=model.backend,
        adapter=model.default.spec,
        classes=list(toml.classes.names),
        input=toml.input.model_dump(),
        artefacts=list(model.bundle.artefact_names),
        pipelines=[_pipeline(fitted) for fitted in model.fitted],
    )


def _pipeline(fitted: Fitted) -> PipelineView:
    return PipelineView(
        adapter=fitted.spec,
        options=dict(fitted.options),
        backend=fitted.backend,
        least_images=fitted.graph.least_images if fitted.graph else 0,
        reason=fitted.not_compiled,
        state_bytes=fitted.state_bytes,
        groups=[
            GroupView(images=images, least_streams=gain.least, gain=gain.times, reason=gain.reason)
            for images, gain in sorted(fitted.gains.copy().items())
        ],
        not_grouped=fitted.not_grouped,
        native=[
            NativeView(images=images, serves=native.step is not None, gain=native.times, reason=native.reason)
            for images, native in sorted(fitted.native.copy().items())
        ],
    )


def _part(part: type[Part]) -> AdapterPart:
    needs = [
        *(["batch-norm layers"] if part.needs.batch_norm else []),
        *(["norm layers with weight and bias"] if part.needs.affine else []),
        *(["gradients"] if part.needs.gradient else []),
        *(f"source artefact {name}" for name in part.needs.artefacts),
    ]
    return AdapterPart(
        name=part.name,
        kind=kind_of(part),
        summary=(part.__doc__ or "").partition("\n")[0],
        remembers=part.remembers,
        needs=needs,
        options=json_schema(part.options_class),
        paper=part.paper,
    )
