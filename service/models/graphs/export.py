"""A pipeline without a gradient as one ONNX graph: model, normalizer and output adjuster, the state in and out.

The names of the graph's inputs and outputs: the inputs by the bundle's name for them, `state/<tensor>` for what the
pipeline remembers, and with `/after` behind it for what it will; `logits`, `probabilities`, `signal/<name>`.

Learners that answer first, and learn from some of the images then, have a graph of the pass that answers.
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
from adapters.network.module_net import ModuleNet
from adapters.pipeline import Fit
from adapters.precision import FLOAT32
from adapters.state import flatten, rebuild
from adapters.values import Forward, NormState, Params
from service.errors import UnfitError

STATE, SIGNAL, AFTER = "state/", "signal/", "/after"
PARAMS, NORM = "params/", "norm/"
FORMAT = "1"
EXAMPLES = 8
"""Images in the batch that is traced, or streams; any number above one would do."""
MOST_STREAMS = 4096
"""In one pass."""


def answers_first(adapter: Adapter, fit: Prepared[Any]) -> bool:
    """Whether an adapter answers by a pass without a gradient, which has a graph though the step has none."""
    return (
        isinstance(adapter, Pipeline)
        and isinstance(fit, Fit)
        and adapter.learner.answers_first
        and fit.net.separable
        and adapter.precision == FLOAT32
    )


def why_not(adapter: Adapter) -> str:
    """Tell why an adapter's step has no graph; "" if it has one."""
    if not isinstance(adapter, Pipeline):
        return f"{adapter.spec} chooses among pipelines as it runs"
    if adapter.precision != FLOAT32:
        return f"it computes in {adapter.precision}, graphs in {FLOAT32}"
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


class Pass(nn.Module):
    """A pass over the next batch of one stream, or of several, as a function of tensors, learned parameters too."""

    def __init__(self, net: ModuleNet, learned: Params) -> None:
        super().__init__()
        self._net = net
        self._learned = list(learned)
        self.names = list(passed_in(learned, net.initial_norm))

    def forward(self, x: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
        """Return logits, features, the drift if it is told, and the statistics after x (N, *input_shape)."""
        with torch.no_grad():
            seen, after = self._net.observe(*self.taken(given), x)
        return *told(seen), *flatten(after).values()

    def taken(self, given: list[Tensor]) -> tuple[Params, NormState]:
        """Return the parameters and the statistics that were given."""
        named = dict(zip(self.names, given, strict=True))
        params = {name: named[f"{PARAMS}{name}"] for name in self._learned}
        return params, rebuild(self._net.initial_norm, _under(NORM, named))


def told(seen: Forward) -> tuple[Tensor, ...]:
    """Return what a pass tells: logits, features and, where it can be told, the drift."""
    drift = () if seen.drift is None else (seen.drift,)
    return seen.logits, seen.features, *drift


def passed_in(params: Params, norm: NormState) -> dict[str, Tensor]:
    """Name what a pass reads: the learned parameters and the statistics."""
    return flatten({"params": params, "norm": norm})


def make_step(pipeline: Adapter, fit: Prepared[Any], sample: Tensor, input_name: str) -> bytes:
    """Export a pipeline's step on the model that it was fitted to.

    Args:
        pipeline: It must have no `why_not`.
        fit: Prepared for the model; what it marks while it runs makes it unfit for another thread meanwhile.
        sample: Inputs (N, *input_shape), of which the first few are traced.
        input_name: The graph's name for its inputs.

    Returns:
        An ONNX file, for any N that the pipeline treats as it does those traced.

    Raises:
        UnfitError: If the model or a part cannot be exported; the message says why.
    """
    if not isinstance(pipeline, Pipeline) or not isinstance(fit, Fit):
        raise UnfitError(why_not(pipeline))
    step = Step(pipeline, fit)
    initial = pipeline.init(fit)
    signals = pipeline.step(fit, initial, sample[:EXAMPLES])[0].signals
    outputs = ["logits", "probabilities", *(f"{SIGNAL}{name}" for name in signals)]
    written = [f"{STATE}{name}" for name in step.names]
    return _exported(str(pipeline.spec), step, sample, input_name, (flatten(initial), outputs, written))


def make_pass(pipeline: Adapter, fit: Prepared[Any], sample: Tensor, input_name: str) -> bytes:
    """Export the pass by which a pipeline of an `answers_first` learner answers; as `make_step` in all else."""
    if not isinstance(fit, Fit):
        raise UnfitError(why_not(pipeline))
    net = fit.net
    given = passed_in(net.affine, net.initial_norm)
    return _exported(
        str(pipeline.spec), Pass(net.pure, net.affine), sample, input_name, (given, *_told_by_a_pass(net, sample))
    )


def learned_by_stream(pipeline: Adapter, fit: Prepared[Any]) -> Params:
    """Return the parameters of a network that a pipeline's streams have each of their own, as they begin."""
    learns = isinstance(pipeline, Pipeline) and pipeline.learner.needs.gradient
    return fit.net.affine if learns and isinstance(fit, Fit) else {}


def make_streams(net: ModuleNet, learned: Params, sample: Tensor, input_name: str) -> bytes:
    """Export a network's pass over several streams of one image each, for any number of them but one.

    Statistics, and the learned parameters if there are any, are stacked (S, ...), and so is the drift.

    Args:
        net: The network of one stream.
        learned: The parameters that each stream has of its own, as they begin.
        sample: Inputs (N, *input_shape), of which the first few are traced.
        input_name: The graph's name for its inputs.

    Raises:
        UnfitError: If it cannot be exported; the message says why.
    """
    given = {
        name: torch.stack([tensor.detach()] * EXAMPLES) for name, tensor in passed_in(learned, net.initial_norm).items()
    }
    function = Pass(net.pure.of_streams(1), learned)
    return _exported(
        "a pass over several streams", function, sample, input_name, (given, *_told_by_a_pass(net, sample)),
        by_stream=True,
    )  # fmt: skip


def _told_by_a_pass(net: ModuleNet, sample: Tensor) -> tuple[list[str], list[str]]:
    """Name a pass's first outputs, and the statistics that it writes."""
    drift = net.observe(net.affine, net.initial_norm, sample[:EXAMPLES])[0].drift
    outputs = ["logits", "features", *(() if drift is None else (f"{SIGNAL}drift",))]
    return outputs, [f"{STATE}{NORM}{name}" for name in flatten(net.initial_norm)]


def _exported(
    what: str, function: nn.Module, sample: Tensor, input_name: str,
    named: tuple[dict[str, Tensor], list[str], list[str]], *, by_stream: bool = False,
) -> bytes:  # fmt: skip
    """Export a function of (x, tensors); `named` are these tensors, its first outputs, and its last, by name."""
    given, outputs, written = named
    tensors = [tensor.detach().clone() for tensor in given.values()]
    names = [input_name, *(f"{STATE}{name}" for name in given)]
    any_number = {0: torch.export.Dim("streams", min=2, max=MOST_STREAMS) if by_stream else torch.export.Dim.DYNAMIC}
    of_tensors = [any_number if by_stream else None] * len(tensors)
    try:
        with _quiet():
            traced = torch.export.export(
                function, (sample[:EXAMPLES], tensors), dynamic_shapes=(any_number, of_tensors), strict=False
            )
            program = torch.onnx.export(
                traced,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=[*outputs, *(f"{name}{AFTER}" for name in written)],
            )
    except Exception as error:
        raise UnfitError(f"{what} cannot be exported with this model: {_reason(error)}") from error
    if program is None:
        raise UnfitError(f"{what} cannot be exported with this model")
    file: bytes = program.model_proto.SerializeToString()
    return file


def with_facts(content: bytes, facts: Mapping[str, str]) -> bytes:
    """Return an ONNX file that tells facts about itself in its metadata."""
    model = onnx.load_model_from_string(content)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the lines of code that each came from, half of the file
    onnx.helper.set_model_props(model, {"format": FORMAT, **facts})
    told: bytes = model.SerializeToString()
    return told


def _reason(error: BaseException) -> str:
    """Return the first line of what an exporter stumbled over at last."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


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
