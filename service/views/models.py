"""Served models with their pipelines, and the parts that a spec can name."""

from typing import Annotated, Any, Literal

from service.views.view import Checked, View


class AdapterPart(View):
    """A part that a spec can name."""

    name: str
    kind: Annotated[str, Checked(Literal["normalizer", "learner", "output", "selector"])]
    summary: str
    remembers: str
    needs: list[str]
    options: dict[str, Any]
    paper: str


class AdapterList(View):
    """All parts."""

    items: list[AdapterPart]
    next: str | None = None


class GroupView(View):
    """The gain from batching several streams' steps, for requests with this many images.

    `least_streams` is the fewest streams that make batching faster, or 0 if it never is. `gain` is the speedup of
    the largest group tried.
    """

    images: int
    least_streams: int
    gain: float
    reason: str


class NativeView(View):
    """A gradient step's compilation to machine code, for requests with this many images.

    `serves` is true if the compiled step is used; otherwise `reason` says why not. `gain` is its speedup, 0 if unknown.
    """

    images: int
    serves: bool
    gain: float
    reason: str


class PipelineView(View):
    """A pipeline fitted to a model, and its backend; `reason` says why it has no graph.

    `least_images` is the fewest images in a request that the graph accepts. `state_bytes` is the size of a stream's
    state. `groups` lists measurements of batched steps; `not_grouped` says why steps are never batched. `native` lists
    its steps in machine code, if `compiled_gradients` is set.
    """

    adapter: str
    options: dict[str, Any]
    backend: str
    least_images: int
    reason: str
    state_bytes: int
    groups: list[GroupView]
    not_grouped: str
    native: list[NativeView]


class ModelView(View):
    """A served model and its fitted pipelines."""

    name: str
    version: str
    description: str
    licence: str
    fingerprint: str
    backend: str
    adapter: str
    classes: list[str]
    input: dict[str, Any]
    artefacts: list[str]
    pipelines: list[PipelineView]


class ModelList(View):
    """All served models."""

    items: list[ModelView]
    next: str | None = None
