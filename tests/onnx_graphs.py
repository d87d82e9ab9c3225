"""ONNX graphs made by hand, with a batch norm in front."""

import onnx
import torch
from onnx import TensorProto, helper

from service.models.onnx.network import rebuild
from service.models.onnx.reader import read

NORM = {"weight": (1.5, 0.5, 1.0), "bias": (0.1, -0.2, 0.3), "mean": (0.5, 0.1, -0.1), "var": (1.0, 0.5, 2.0)}


def by_hand(file, nodes, constants=(), opset=20, domains=()):
    """Write a graph: a batch norm makes `h` of the images, the nodes make `logits` of it."""
    norm = helper.make_node("BatchNormalization", ["images", *NORM], ["h"], name="norm", epsilon=1e-3)
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [3], values) for name, values in NORM.items()]
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 16, 16])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph([norm, *nodes], "by hand", [taken], [made], [*tensors, *constants])
    sets = [helper.make_opsetid(domain, version) for domain, version in (("", opset), *domains)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=sets), file)
    return file


def whole(name, values, shape=None):
    return helper.make_tensor(name, TensorProto.INT64, [len(values)] if shape is None else shape, values)


def real(name, shape, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return helper.make_tensor(name, TensorProto.FLOAT, shape, values.flatten().tolist())


def node(op, *inputs, made="logits", **attributes):
    name = f"the.{op}" if made == "logits" else f"{made}.{op}"
    return helper.make_node(op, list(inputs), [made], name=name, **attributes)


def rebuilt(file):
    return rebuild(read(file, ["logits"]), ("logits", "logits"), (3, 16, 16))


def batch(count, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
