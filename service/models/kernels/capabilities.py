"""Which kernels a pipeline can have, and why not the others."""

import shutil
from dataclasses import dataclass
from typing import Any

from adapters import Adapter, Pipeline, Prepared
from adapters.joint_step import joint_learner
from adapters.pipeline import Fit
from adapters.precision import FLOAT32
from service.models.kernels.kernel import OwnSteps

COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Which kernels a prepared pipeline can have. Each reason says why it cannot have one; "" if it can.

    Attributes:
        own: The pipeline's own steps; None if it chooses among pipelines as it runs.
        whole: Why its whole step is no ONNX graph.
        graph: Why no ONNX graph takes its steps. For some pipelines it holds only the forward pass that answers.
        native: Why no machine code takes its steps.
        joint: Why its steps for several streams are never taken as one.
        joint_graph: Whether an ONNX graph can run the forward pass of several streams.
    """

    own: OwnSteps | None
    whole: str
    graph: str
    native: str
    joint: str
    joint_graph: bool


def capabilities(adapter: Adapter, prepared: Prepared[Any]) -> Capabilities:
    """Return which kernels a pipeline can have on the model that it is fitted to."""
    if not isinstance(adapter, Pipeline) or not isinstance(prepared, Fit):
        chooses = f"{adapter.spec} chooses among pipelines as it runs"
        return Capabilities(None, chooses, chooses, chooses, chooses, joint_graph=False)
    own, whole = OwnSteps(adapter, prepared), _not_whole(adapter)
    joint = "" if adapter.pure_graph else f"{adapter.spec} branches on data"
    if prepared.net.source.opaque:
        shipped, joint = "the bundle is an ONNX graph already", "the model is an ONNX graph"
        return Capabilities(own, whole, shipped, _not_native(adapter), joint, joint_graph=False)
    one_pass = adapter.precision == FLOAT32 and joint_learner(adapter, prepared) is not None
    return Capabilities(
        own, whole, "" if answers_by_graph(own) else whole, _not_native(adapter), joint, not joint and one_pass
    )


def answers_by_graph(own: OwnSteps) -> bool:
    """Return whether a graph holds only the pass that answers, after which the learner learns in PyTorch."""
    return own.pipeline.learner.answers_first and own.fit.net.separable and own.pipeline.precision == FLOAT32


def _not_whole(pipeline: Pipeline) -> str:
    if pipeline.precision != FLOAT32:
        return f"it computes in {pipeline.precision}, graphs in {FLOAT32}"
    if pipeline.learner.needs.gradient:
        return f"{pipeline.learner.name} learns by gradients"
    return _branches(pipeline)


def _not_native(pipeline: Pipeline) -> str:
    if not pipeline.learner.needs.gradient:
        return "it learns without gradients: a graph serves it, or may (`compiled_specs`)"
    if pipeline.precision != FLOAT32:
        return f"it computes in {pipeline.precision}, compiled steps in {FLOAT32}"
    branches = "" if pipeline.learner.reads_often else _branches(pipeline)  # its passes are compiled instead
    if branches or any(map(shutil.which, COMPILERS)):
        return branches
    return f"there is no C++ compiler ({', '.join(COMPILERS)})"


def _branches(pipeline: Pipeline) -> str:
    pure = pipeline.pure_graph and not pipeline.draws
    return "" if pure else f"{pipeline.spec} branches on data or draws random numbers"
