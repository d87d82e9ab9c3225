"""Rebuilds an ONNX graph as a PyTorch network, so that adapters can reach its norm layers."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from service.errors import UnfitError
from service.models.onnx.node import PROBES, Operand, Site
from service.models.onnx.operations import operation
from service.models.onnx.reader import Graph, Node

MAX_ELEMENTS = 2**28
"""Most elements of any one value for the probes, and of all computed constants together."""
FOLDED = "it has no BatchNormalization (folded? PyTorch keeps it with `optimize=False`)"


@dataclass(frozen=True)
class Step:
    """A layer, the names of its inputs and output, and the names of the values that no later layer reads."""

    layer: str
    inputs: tuple[str, ...]
    output: str
    done: tuple[str, ...]


class RebuiltNetwork(nn.Module):
    """Runs the layers of a graph in order. The features pass through the module `features`, for hooks to read them.

    Args:
        graph_input: The name of the graph's input.
        outputs: The names of the graph's logits and features.
        layers: The layers by name.
        steps: The layers in execution order.
        constants: The values that no layer computes, by name.
    """

    def __init__(
        self,
        graph_input: str,
        outputs: tuple[str, str],
        layers: Mapping[str, nn.Module],
        steps: Sequence[Step],
        constants: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.features = nn.Identity()
        self._input, self._outputs, self._steps = graph_input, outputs, tuple(steps)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._constants = {name: f"constant_{number}_" for number, name in enumerate(constants)}  # no layer ends in "_"
        for name, tensor in constants.items():
            self.register_buffer(self._constants[name], tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of standardised x (N, ...)."""
        return self.answers(x)[0]

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, classes) and features (N, ...) of standardised x (N, ...)."""
        values = {self._input: x}
        logits, features = self._outputs
        for step in self._steps:
            value = self.get_submodule(step.layer)(*(self._value(values, name) for name in step.inputs))
            values[step.output] = self.features(value) if step.output == features else value
            for name in step.done:
                del values[name]
        return values[logits], values[features]

    def _value(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        return values[name] if name in values else self.get_buffer(self._constants[name])


def rebuild(graph: Graph, outputs: tuple[str, str], shape: tuple[int, ...]) -> RebuiltNetwork:
    """Build the network that a graph describes. It follows only the shapes of images, and computes nothing on them.

    Args:
        graph: The graph.
        outputs: The names of the graph's logits and features.
        shape: One input's shape, without the batch dimension.

    Raises:
        UnfitError: If the graph uses something unsupported, or exceeds a bound.
    """
    if not any(node.op == "BatchNormalization" for node in graph.nodes):
        raise UnfitError(FOLDED)
    builder = _Builder(graph, shape)
    for node in graph.nodes:
        builder.take(node)
    return builder.network(outputs)


class _Builder:
    """Builds a network from a graph, node by node."""

    def __init__(self, graph: Graph, shape: tuple[int, ...]) -> None:
        first, second = (torch.empty(images, *shape, device="meta") for images in PROBES)
        self._input, self._opset = graph.input, graph.opset
        self._operands = {name: Operand((tensor, tensor)) for name, tensor in graph.constants.items()}
        self._operands[graph.input] = Operand((first, second), live=True)
        self._layers: dict[str, nn.Module] = {}
        self._runs: list[tuple[str, tuple[str, ...], str]] = []
        self._used_names = {*dir(nn.Module()), "features"}
        self._repeated: Counter[str] = Counter()
        self._computed = 0

    def take(self, node: Node) -> None:
        """Build a node's layer, or compute its value if it does not depend on the images."""
        at = Site(node, [self._operand(node, name) for name in node.inputs], self._opset)
        try:
            with torch.no_grad():
                self._operands[node.output] = _shape(at) if node.op == "Shape" else self._built(at)
        except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise at.refusal(f"cannot be built: {str(error).partition(chr(10))[0][:200]}") from None

    def network(self, outputs: tuple[str, str]) -> RebuiltNetwork:
        """Return the network. All nodes must have been added with `take`."""
        computed = {output for _, _, output in self._runs}
        missing = [name for name in outputs if name not in computed]
        if missing:
            raise UnfitError(f"its output {missing[0]!r} does not depend on the images")
        read = {name for _, inputs, _ in self._runs for name in inputs}
        constants = {name: value.each[0] for name, value in self._operands.items() if name in read and not value.live}
        return RebuiltNetwork(self._input, outputs, self._layers, self._steps(outputs), constants)

    def _operand(self, node: Node, name: str) -> Operand | None:
        if name and name not in self._operands:
            raise UnfitError(f"its node {node.name!r} ({node.op}) takes {name!r}, which is not known")
        return self._operands[name] if name else None

    def _built(self, at: Site) -> Operand:
        kind = operation(at)
        layer, operands = kind.make(at), [each for each in at.operands[: kind.inputs] if each is not None]
        shapes = self._shapes(at, layer, operands)
        if not any(operand.live for operand in operands):
            return self._value(at, layer, operands, shapes)
        if not all(operand.live or operand.settled for operand in operands):
            raise at.refusal("combines images with a value that depends on the batch size")
        name = self._name(at.node)
        self._layers[name] = layer
        self._runs.append((name, tuple(each for each in at.node.inputs[: kind.inputs] if each), at.node.output))
        return Operand(shapes, live=True)

    def _shapes(self, at: Site, layer: nn.Module, operands: Sequence[Operand]) -> tuple[Tensor, Tensor]:
        """Return a layer's outputs for both probes, on the device `meta`."""
        weights = {name: tensor.to("meta") for name, tensor in layer.state_dict().items()}
        with torch.device("meta"):
            first, second = (
                functional_call(layer, weights, tuple(operand.each[probe].to("meta") for operand in operands))
                for probe in range(len(PROBES))
            )
        if max(first.numel(), second.numel()) > MAX_ELEMENTS:
            raise at.refusal(f"makes a value of shape {tuple(second.shape)}, expected at most {MAX_ELEMENTS} elements")
        return first, second

    def _value(self, at: Site, layer: nn.Module, operands: Sequence[Operand], shapes: tuple[Tensor, Tensor]) -> Operand:
        """Compute a value that does not depend on the images."""
        self._computed += shapes[1].numel()
        if self._computed > MAX_ELEMENTS:
            raise at.refusal(f"and the nodes before it compute constants of more than {MAX_ELEMENTS} elements")
        first = layer(*(operand.each[0] for operand in operands))
        same = all(operand.each[0] is operand.each[1] for operand in operands)
        return Operand((first, first if same else layer(*(operand.each[1] for operand in operands))))

    def _name(self, node: Node) -> str:
        """Return a unique layer name: the path of its weight in the exported network, or the node's name."""
        path = node.inputs[1].rpartition(".")[0] if len(node.inputs) > 1 else ""
        plain = re.sub(r"\W+", "_", path or node.name).strip("_") or node.op
        while plain in self._used_names:
            self._repeated[plain] += 1
            plain = f"{plain}_{self._repeated[plain]}"
        self._used_names.add(plain)
        return plain

    def _steps(self, outputs: tuple[str, str]) -> list[Step]:
        last = {name: number for number, (_, inputs, output) in enumerate(self._runs) for name in (output, *inputs)}
        kept = {*outputs, *(name for name, operand in self._operands.items() if not operand.live)}
        return [
            Step(layer, inputs, output, tuple({n for n in (output, *inputs) if last[n] == number and n not in kept}))
            for number, (layer, inputs, output) in enumerate(self._runs)
        ]


def _shape(at: Site) -> Operand:
    """Return the value of a Shape node for both probes."""
    first, second = (torch.tensor(tuple(shape)) for shape in at.shapes())
    start, end = at.integer("start", 0), at.integer("end", at.rank)
    return Operand((first[start:end], second[start:end]))
