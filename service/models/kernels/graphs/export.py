"""Exports a gradient-free pipeline as one ONNX graph: model, normalizer and output adjuster, with the state in and out.

The graph's inputs are the images, under the bundle's input name, and `state/<tensor>` for the state before the step.
Its outputs are `logits`, `probabilities`, `signal/<name>`, and `state/<tensor>/after` for the state after the step.

For a learner that answers first and then learns from some of the images, the graph holds only the answering pass.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from adapters.network.module_net import ModuleNet
from adapters.state import flatten, rebuild
from adapters.values import Forward, NormState, Params
from service.errors import UnfitError
from service.models.kernels.kernel import OwnSteps

STATE, SIGNAL, AFTER = "state/", "signal/", "/after"
PARAMS, NORM = "params/", "norm/"
FORMAT = "1"
EXAMPLES = 8
"""Images, or streams, in the traced batch. Any number above one would do."""
MOST_STREAMS = 4096
"""Most streams in one pass."""


class Step(nn.Module):
    """One step of a pipeline as a function of tensors."""

    def __init__(self, own: OwnSteps) -> None:
        super().__init__()
        self._own = own
        self._initial = own.fit.initial
        self.names = list(flatten(self._initial))

    def forward(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        """Return logits, probabilities, signals and the state after x (N, *input_shape), in one flat tuple."""
        before = rebuild(self._initial, dict(zip(self.names, state, strict=True)))
        output, after = self._own.pipeline.kernel(self._own.fit, before, x, {})
        return output.logits, output.probabilities, *output.signals.values(), *flatten(after).values()


class Pass(nn.Module):
    """A forward pass over the next batch of one or several streams, as a function of tensors.

    The learned parameters are among its inputs.
    """

    def __init__(self, net: ModuleNet, learned: Params) -> None:
        super().__init__()
        self._net = net
        self._learned = list(learned)
        self.names = list(passed_in(learned, net.initial_norm))

    def forward(self, x: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        """Return logits, features, the drift if there is one, and the statistics after x (N, *input_shape)."""
        with torch.no_grad():
            forward, after = self._net.observe(*self.unflattened(tensors), x)
        return *outputs_of(forward), *flatten(after).values()

    def unflattened(self, tensors: list[Tensor]) -> tuple[Params, NormState]:
        """Return the parameters and the statistics that a list of tensors holds."""
        named = dict(zip(self.names, tensors, strict=True))
        params = {name: named[f"{PARAMS}{name}"] for name in self._learned}
        return params, rebuild(self._net.initial_norm, _under(NORM, named))


def outputs_of(forward: Forward) -> tuple[Tensor, ...]:
    """Return the outputs of a pass as a tuple: logits, features and, if there is one, the drift."""
    drift = () if forward.drift is None else (forward.drift,)
    return forward.logits, forward.features, *drift


def passed_in(params: Params, norm: NormState) -> dict[str, Tensor]:
    """Return the tensors that a pass reads, by name: the learned parameters and the statistics."""
    return flatten({"params": params, "norm": norm})


def make_step(own: OwnSteps, sample: Tensor, input_name: str) -> bytes:
    """Export a pipeline's step on the model that it is fitted to.

    Args:
        own: The pipeline's own steps. No other thread may use them during the export.
        sample: Inputs (N, *input_shape); the first few are traced.
        input_name: The graph's name for its images.

    Returns:
        An ONNX file. It holds for every N that the pipeline treats like the traced one.

    Raises:
        UnfitError: If the model or a part cannot be exported. The message says why.
    """
    step, initial = Step(own), own.fit.initial
    signals = own.step(initial, sample[:EXAMPLES])[0].signals
    outputs = ["logits", "probabilities", *(f"{SIGNAL}{name}" for name in signals)]
    written = [f"{STATE}{name}" for name in step.names]
    return _exported(str(own.pipeline.spec), step, sample, input_name, (flatten(initial), outputs, written))


def make_pass(own: OwnSteps, sample: Tensor, input_name: str) -> bytes:
    """Export the answering pass of a pipeline with an `answers_first` learner; otherwise like `make_step`."""
    net = own.fit.net
    tensors = passed_in(net.affine, net.initial_norm)
    return _exported(
        str(own.pipeline.spec), Pass(net.pure, net.affine), sample, input_name, (tensors, *_output_names(net, sample))
    )


def learned_by_stream(own: OwnSteps) -> Params:
    """Return the initial values of the parameters that each stream of a pipeline learns for itself."""
    return own.fit.net.affine if own.pipeline.learner.needs.gradient else {}


def make_streams(own: OwnSteps, sample: Tensor, input_name: str) -> bytes:
    """Export a pipeline's forward pass over several streams of one image each, for any number of streams above one.

    Statistics, learned parameters and the drift are stacked (S, ...).

    Args:
        own: The pipeline's own steps for one stream.
        sample: Inputs (N, *input_shape); the first few are traced.
        input_name: The graph's name for its images.

    Raises:
        UnfitError: If it cannot be exported. The message says why.
    """
    net, learned = own.fit.net, learned_by_stream(own)
    tensors = {
        name: torch.stack([tensor.detach()] * EXAMPLES) for name, tensor in passed_in(learned, net.initial_norm).items()
    }
    function = Pass(net.pure.of_streams(1), learned)
    return _exported(
        "a pass over several streams", function, sample, input_name, (tensors, *_output_names(net, sample)),
        by_stream=True,
    )  # fmt: skip


def _output_names(net: ModuleNet, sample: Tensor) -> tuple[list[str], list[str]]:
    """Return the names of a pass's first outputs, and of the statistics that follow them."""
    drift = net.observe(net.affine, net.initial_norm, sample[:EXAMPLES])[0].drift
    outputs = ["logits", "features", *(() if drift is None else (f"{SIGNAL}drift",))]
    return outputs, [f"{STATE}{NORM}{name}" for name in flatten(net.initial_norm)]


def _exported(
    what: str, function: nn.Module, sample: Tensor, input_name: str,
    named: tuple[dict[str, Tensor], list[str], list[str]], *, by_stream: bool = False,
) -> bytes:  # fmt: skip
    """Export a function of (x, tensors) as an ONNX file.

    Args:
        what: The function's name in an error.
        function: The function.
        sample: Inputs x (N, *input_shape); the first few are traced.
        input_name: The graph's name for x.
        named: The tensors by name, the names of the first outputs, and the names of the state outputs after them.
        by_stream: Whether the tensors have a leading dimension of streams too.
    """
    named_tensors, outputs, written = named
    tensors = [tensor.detach().clone() for tensor in named_tensors.values()]
    names = [input_name, *(f"{STATE}{name}" for name in named_tensors)]
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
    """Return an ONNX file with facts added to its metadata."""
    model = onnx.load_model_from_string(content)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the source lines of each node, which are half of the file
    onnx.helper.set_model_props(model, {"format": FORMAT, **facts})
    file: bytes = model.SerializeToString()
    return file


def _reason(error: BaseException) -> str:
    """Return the first line of an exporter error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' own log messages and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
