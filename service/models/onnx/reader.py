"""Reads an ONNX file as data. The file must be self-contained, without control flow, and within bounds."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import torch
from torch import Tensor

from service.errors import UnfitError

MAX_NODES = 20_000
MIN_OPSET = 9
CORE = ("", "ai.onnx")
DTYPES: Mapping[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}
Attribute: TypeAlias = Tensor | str | int | float | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class Node:
    """One operation of a graph. The name of an omitted input is ""; `name` is never empty."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True)
class Graph:
    """The part of a graph that its outputs need: nodes in execution order, and constants by name."""

    input: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    opset: int


def read(file: Path, outputs: Collection[str]) -> Graph:
    """Read the part of a graph that the named outputs need.

    Raises:
        UnfitError: If it stores tensors in other files, contains subgraphs, or exceeds a bound.
    """
    try:
        model = onnx.load_model(file, load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf raises exceptions of its own
        raise UnfitError(f"it cannot be read: {error}") from None
    graph, opset = model.graph, max((each.version for each in model.opset_import if each.domain in CORE), default=0)
    if len(graph.node) > MAX_NODES:
        raise UnfitError(f"it has {len(graph.node)} nodes, expected at most {MAX_NODES}")
    if opset < MIN_OPSET:
        raise UnfitError(f"it has opset {opset}, expected {MIN_OPSET} or later")
    needed = _needed(graph.node, outputs)
    read_names = {name for node in needed for name in node.input} | set(outputs)
    constants = {each.name: _tensor(each) for each in graph.initializer if each.name in read_names}
    constants |= {node.output[0]: _constant(node) for node in needed if node.op_type == "Constant"}
    initializers = {each.name for each in graph.initializer}
    name = next((each.name for each in graph.input if each.name not in initializers), "")
    nodes = tuple(_node(node, number) for number, node in enumerate(needed) if node.op_type != "Constant")
    return Graph(name, nodes, constants, opset)


def _needed(nodes: Collection[Any], outputs: Collection[str]) -> list[Any]:
    """Return the nodes that compute the outputs, in the graph's order, which is the execution order."""
    needed, kept = set(outputs), []
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(name for name in node.input if name)
    return kept[::-1]


def _node(node: Any, number: int) -> Node:
    op = node.op_type if node.domain in CORE else f"{node.domain}.{node.op_type}"
    name = node.name or f"{node.op_type}_{number}"
    attributes = {each.name: _attribute(each, name) for each in node.attribute}
    return Node(op, name, tuple(node.input), node.output[0], attributes)


def _attribute(attribute: Any, name: str) -> Attribute:
    kind = onnx.AttributeProto
    if attribute.type == kind.TENSOR:
        return _tensor(attribute.t)
    if attribute.type == kind.STRING:
        return str(attribute.s.decode(errors="replace"))
    if attribute.type in (kind.INT, kind.FLOAT):
        return int(attribute.i) if attribute.type == kind.INT else float(attribute.f)
    if attribute.type in (kind.INTS, kind.FLOATS):
        return tuple(attribute.ints) if attribute.type == kind.INTS else tuple(attribute.floats)
    if attribute.type in (kind.GRAPH, kind.GRAPHS):
        raise UnfitError(f"its node {name!r} holds a graph of its own")
    raise UnfitError(f"its node {name!r} has an attribute {attribute.name!r} of an unsupported kind")


def _constant(node: Any) -> Tensor:
    value = next((_attribute(each, node.name) for each in node.attribute), "")
    if isinstance(value, Tensor):
        return value
    if isinstance(value, str):
        raise UnfitError(f"its constant {node.output[0]!r} is not a number")
    return torch.tensor(value)


def _tensor(tensor: Any) -> Tensor:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise UnfitError(f"its tensor {tensor.name!r} is kept in another file")
    if tensor.data_type not in DTYPES:
        kinds = onnx.TensorProto.DataType
        kind = kinds.Name(tensor.data_type) if tensor.data_type in kinds.values() else "unknown"
        raise UnfitError(f"its tensor {tensor.name!r} has the unsupported type {kind}")
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        raise UnfitError(f"its tensor {tensor.name!r} cannot be read: {error}") from None
