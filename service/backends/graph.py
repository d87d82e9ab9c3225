"""A pipeline without a gradient as one ONNX graph: model, normalizer and output adjuster, the state in and out.

The names of the graph's inputs and outputs: the inputs by the bundle's name for them, `state/<tensor>` for what the
pipeline remembers, `logits`, `probabilities`, `signal/<name>`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from adapters import Pipeline
from adapters.adapter import Adapter, Prepared
from adapters.pipeline import Fit
from adapters.state import flatten, rebuild
from service.errors import UnfitError

STATE, SIGNAL = "state/", "signal/"
FORMAT = "1"
EXAMPLES = 8
"""Images in the batch that is traced; any number above one would do."""


def why_not(adapter: Adapter) -> str:
    """Tell why an adapter has no graph; "" if it has one."""
    if not isinstance(adapter, Pipeline):
        return f"{adapter.spec} chooses among pipelines as it runs"
    if adapter.learner.needs.gradient:
        return f"{adapter.learner.name} learns by gradients"
    if not adapter.pure_graph or adapter.draws:
        return f"{adapter.spec} branches on data or draws random numbers"
    return ""


class Step(nn.Module):
    """One step of a pipeline as a function of tensors alone."""

    def __init__(self, pipeline: Pipeline, fit: Fit) -> None:
        super().__init__()
        self._pipeline, self._fit = pipeline, fit
        self._initial = pipeline.init(fit)
        self.names = list(flatten(self._initial))

    def forward(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        """Return logits, probabilities, signals and the state after x (N, *input_shape), in one flat tuple."""
        before = rebuild(self._initial, dict(zip(self.names, state, strict=True)))
        output, after = self._pipeline.kernel(self._fit, before, x, {})
        return output.logits, output.probabilities, *output.signals.values(), *flatten(after).values()


def make(pipeline: Adapter, fit: Prepared[Any], sample: Tensor, input_name: str) -> bytes:
    """Export a pipeline that was fitted to a model.

    Args:
        pipeline: It must have no `why_not`.
        fit: Prepared for the model; what it marks while it runs makes it unfit for another thread meanwhile.
        sample: Inputs (N, *input_shape), of which the first few are traced.
        input_name: The graph's name for its inputs.

    Returns:
        An ONNX file. Unlike the pipeline's own tensors it takes any N, one included.

    Raises:
        UnfitError: If the model or a part cannot be exported; the message says why.
    """
    if not isinstance(pipeline, Pipeline) or not isinstance(fit, Fit):
        raise UnfitError(why_not(pipeline))
    step, sample = Step(pipeline, fit), sample[:EXAMPLES]
    initial = pipeline.init(fit)
    tensors = [tensor.clone() for tensor in flatten(initial).values()]
    signals = pipeline.step(fit, initial, sample)[0].signals
    states = [f"{STATE}{name}" for name in step.names]
    outputs = [
        "logits",
        "probabilities",
        *(f"{SIGNAL}{name}" for name in signals),
        *(f"{name}/after" for name in states),
    ]
    any_batch = {0: torch.export.Dim.DYNAMIC}
    try:
        with _quiet():
            traced = torch.export.export(
                step, (sample, tensors), dynamic_shapes=(any_batch, [None] * len(tensors)), strict=False
            )
            program = torch.onnx.export(
                traced, dynamo=True, verbose=False, input_names=[input_name, *states], output_names=outputs
            )
    except Exception as error:
        raise UnfitError(f"{pipeline.spec} cannot be exported with this model: {_reason(error)}") from error
    if program is None:
        raise UnfitError(f"{pipeline.spec} cannot be exported with this model")
    file: bytes = program.model_proto.SerializeToString()
    return file


def with_facts(content: bytes, facts: Mapping[str, str]) -> bytes:
    """Return an ONNX file that tells facts about itself in its metadata."""
    model = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(model, {"format": FORMAT, **facts})
    told: bytes = model.SerializeToString()
    return told


def _reason(error: BaseException) -> str:
    """Return the first line of what an exporter stumbled over at last."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks about themselves out of the log."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
