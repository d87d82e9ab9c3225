"""The control plane's routes about served models and adapter parts."""

from fastapi import APIRouter

from adapters.base import Part
from adapters.options import json_schema
from adapters.registry import FOLDERS, kind_of, parts
from service.api.problems import responses
from service.models.hosted import Fitted, HostedModel
from service.serving.dataplane import Dataplane
from service.views.models import AdapterList, AdapterPart, GroupView, ModelList, ModelView, NativeView, PipelineView


def router(dataplane: Dataplane, models: dict[str, HostedModel]) -> APIRouter:
    """Return the routes about models and parts."""
    routes = APIRouter()

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
        """Every part that a spec can name, with the JSON Schema of its options."""
        return AdapterList(
            items=[_part(part) for kind in FOLDERS for part in parts(kind).values() if part.name != "none"]
        )

    return routes


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
    kernels = fitted.kernels
    return PipelineView(
        adapter=fitted.spec,
        options=dict(fitted.options),
        backend=fitted.backend,
        least_images=kernels.graph.least,
        reason=kernels.graph.reason,
        state_bytes=fitted.state_bytes,
        groups=[
            GroupView(images=images, least_streams=joined.least, gain=joined.times, reason=joined.reason)
            for images, joined in sorted(kernels.joined.copy().items())
        ],
        not_grouped=kernels.can.joint,
        native=[
            NativeView(images=images, serves=not native.reason, gain=native.times, reason=native.reason)
            for images, native in sorted(kernels.native.copy().items())
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
