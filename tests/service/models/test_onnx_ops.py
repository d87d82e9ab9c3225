"""The operations of ONNX graphs, one by one: as ONNX Runtime's, or refused by name and not run."""

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from service.errors import UnfitError
from service.models.onnx.network import MAX_ELEMENTS
from service.models.onnx.reader import MAX_NODES
from tests.onnx_graphs import batch, by_hand, node, real, rebuilt, whole

KERNEL, GROUPED = real("k", [4, 3, 3, 3]), real("k", [6, 1, 3, 2])
KNOWN = {
    "conv_uneven": ([node("Conv", "h", "k", pads=[1, 0, 2, 1])], [KERNEL]),
    "conv_dilated": ([node("Conv", "h", "k", dilations=[2, 1], strides=[1, 2], pads=[1, 1, 1, 1])], [KERNEL]),
    "conv_same_upper": ([node("Conv", "h", "k", group=3, auto_pad="SAME_UPPER", strides=[2, 2])], [GROUPED]),
    "conv_same_lower": ([node("Conv", "h", "k", group=3, auto_pad="SAME_LOWER")], [GROUPED]),
    "conv_bias": ([node("Conv", "h", "k", "b", auto_pad="VALID")], [KERNEL, real("b", [4])]),
    "max_pool": ([node("MaxPool", "h", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], []),
    "max_pool_uneven": ([node("MaxPool", "h", kernel_shape=[3, 2], pads=[0, 0, 1, 1], ceil_mode=1)], []),
    "average_pool": ([node("AveragePool", "h", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])], []),
    "average_uneven": ([node("AveragePool", "h", kernel_shape=[3, 3], pads=[0, 1, 2, 1], count_include_pad=1)], []),
    "global_pool": ([node("GlobalAveragePool", "h")], []),
    "mean": ([node("ReduceMean", "h", "a", keepdims=0)], [whole("a", [-1, 2])]),
    "mean_of_nothing": ([node("ReduceMean", "h", noop_with_empty_axes=1)], []),
    "flatten": ([node("Flatten", "h")], []),
    "flatten_negative": ([node("Flatten", "h", axis=-3)], []),
    "reshape": ([node("Reshape", "h", "s")], [whole("s", [0, -1, 8])]),
    "reshape_rows": ([node("Reshape", "h", "s")], [whole("s", [-1, 16])]),
    "transpose": ([node("Transpose", "h", perm=[0, 2, 3, 1])], []),
    "gemm": ([node("Flatten", "h", made="f"), node("Gemm", "f", "w", "b", transB=1, alpha=0.5, beta=2.0)],
                 [real("w", [5, 768]), real("b", [5])]),
    "gemm_one_bias": ([node("Flatten", "h", made="f"), node("Gemm", "f", "w", "b")],
                 [real("w", [768, 5]), real("b", [1])]),
    "matmul_weight": ([node("MatMul", "h", "w")], [real("w", [16, 5])]),
    "matmul_images": ([node("MatMul", "h", "h")], []),
    "matmul_of_each_channel": ([node("MatMul", "h", "w")], [real("w", [3, 16, 2])]),
    "concat": ([node("Concat", "h", "h", "h", axis=1)], []),
    "pad": ([node("Pad", "h", "p", "v")], [whole("p", [0, 1, 0, 0, 0, 2, 1, 0]), real("v", [])]),
    "pad_axes": ([node("Pad", "h", "p", "", "a")], [whole("p", [1, 2, 0, 1]), whole("a", [-1, 1])]),
    "slice": ([node("Slice", "h", "s", "e", "a", "t")],
                 [whole("s", [1, 0]), whole("e", [2**63 - 1, -1]), whole("a", [2, 3]), whole("t", [2, 3])]),
    "slice_reversed": ([node("Slice", "h", "s", "e", "a", "t")],
                 [whole("s", [-1]), whole("e", [-(2**62)]), whole("a", [3]), whole("t", [-1])]),
    "gather": ([node("Gather", "h", "i", axis=1)], [whole("i", [2, 0])]),
    "gather_one": ([node("Gather", "h", "i", axis=2)], [whole("i", [3], [])]),
    "squeeze": ([node("GlobalAveragePool", "h", made="p"), node("Squeeze", "p", "a")], [whole("a", [2, 3])]),
    "unsqueeze": ([node("Unsqueeze", "h", "a")], [whole("a", [-1, 1])]),
    "clip_below": ([node("Clip", "h", "l")], [real("l", [])]),
    "leaky": ([node("LeakyRelu", "h", alpha=0.3)], []),
    "hard_sigmoid": ([node("HardSigmoid", "h")], []),
    "hard_swish": ([node("HardSwish", "h")], []),
    "gate": ([node("Sigmoid", "h", made="g"), node("Mul", "h", "g")], []),
    "affine": ([node("Sub", "h", "c", made="g"), node("Div", "g", "d")], [real("c", [3, 1, 1]), real("d", [], 1)]),
    "softmax": ([node("Softmax", "h", axis=1)], []),
    "dropout": ([node("Dropout", "h")], []),
    "cast": ([node("Cast", "h", made="d", to=TensorProto.DOUBLE), node("Cast", "d", to=TensorProto.FLOAT)], []),
    "shape_of_batch": ([node("Shape", "h", made="s"), node("Gather", "s", "i", made="n"),
                        node("Unsqueeze", "n", "z", made="u"), node("Concat", "u", "m", made="t", axis=0),
                        node("Reshape", "h", "t")],
                 [whole("i", [0], []), whole("z", [0]), whole("m", [-1])]),
    "zeros_like": ([node("Shape", "h", made="s", start=1), node("ReduceMean", "h", "a", made="q"),
                    node("Div", "s", "two", made="t"), node("ConstantOfShape", "t", made="o"),
                    node("CastLike", "o", "h", made="z"), node("Add", "q", "z")],
                 [whole("a", [1, 2, 3]), whole("two", [2])]),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN)
def test_each_operation_is_that_of_onnx_runtime(tmp_path, case):
    nodes, constants = KNOWN[case]
    file = by_hand(tmp_path / "model.onnx", nodes, constants)
    network, session = rebuilt(file), onnxruntime.InferenceSession(file)
    for count in (1, 4):
        x = batch(count) * 4 - 2
        expected = torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


EARLIER = {
    "clip": ([node("Clip", "h", min=0.1, max=0.5)], 9),
    "pad": ([node("Pad", "h", pads=[0, 0, 1, 1, 0, 0, 2, 0], value=0.5)], 9),
    "slice": ([node("Slice", "h", axes=[2], starts=[1], ends=[9])], 9),
    "mean": ([node("ReduceMean", "h", axes=[2, 3], keepdims=0)], 11),
    "unsqueeze": ([node("Unsqueeze", "h", axes=[1])], 11),
    "softmax": ([node("Flatten", "h", made="f"), node("Softmax", "f")], 11),
}


@pytest.mark.parametrize("case", EARLIER)
def test_earlier_opsets_have_their_arguments_as_attributes(tmp_path, case):
    nodes, opset = EARLIER[case]
    file = by_hand(tmp_path / "model.onnx", nodes, opset=opset)
    expected = onnxruntime.InferenceSession(file).run(["logits"], {"images": batch(3).numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(file)(batch(3)), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


ELSE = helper.make_graph(
    [node("Relu", "h", made="r")], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
)
TRUE = helper.make_tensor("true", TensorProto.BOOL, [], [True])
UNKNOWN = {
    "operation": ([node("Erf", "h")], [], "'the.Erf' (Erf) is of an operation that is not known"),
    "domain": ([helper.make_node("Gelu", ["h"], ["logits"], domain="com.microsoft")], [], "com.microsoft.Gelu"),
    "branches": ([node("If", "true", then_branch=ELSE, else_branch=ELSE)], [TRUE], "holds a graph of its own"),
    "training": ([node("BatchNormalization", "h", *["one"] * 4, training_mode=1)], [real("one", [3])], "training mode"),
    "reflected": ([node("Pad", "h", "p", mode="reflect")], [whole("p", [0, 0, 1, 1] * 2)], "'reflect'"),
    "huge_pad": ([node("Pad", "h", "p")], [whole("p", [0, 0, 2**20, 2**20] * 2)], f"at most {MAX_ELEMENTS} elements"),
    "overflow": ([node("Pad", "h", "p")], [whole("p", [0, 0, 2**61, 2**61] * 2)], "(Pad) cannot be built"),
    "huge_constant": ([node("ConstantOfShape", "s", made="c"), node("Add", "h", "c")], [whole("s", [2**40])], "most"),
    "huge_expansion": ([node("Expand", "h", "s")], [whole("s", [2**40, 1, 3, 16, 16])], "at most"),
    "impossible_shape": ([node("Reshape", "h", "s")], [whole("s", [-1, 7])], "(Reshape) cannot be built"),
    "join": ([node("Concat", "h", *["h"] * 4000, made="a"), node("Concat", *["a"] * 4000, axis=1)], [], "(Concat)"),
    "batch": ([node("Shape", "h", made="s"), node("Slice", "h", "z", "s")], [whole("z", [0] * 4)], "from the images"),
    "text": ([node("Reshape", "h", "s")], [helper.make_tensor("s", TensorProto.STRING, [1], [b"a"])], "type STRING"),
    "dangling": ([node("Add", "h", "nothing")], [], "takes 'nothing', which is not known"),
    "squeeze_all": ([node("GlobalAveragePool", "h", made="p"), node("Squeeze", "p")], [], "remove the batch dim"),
    "half": ([node("Cast", "h", to=TensorProto.FLOAT16)], [], "casts to the type 10"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_known_or_beyond_bounds_is_refused_by_name_and_not_run(tmp_path, case):
    nodes, constants, said = UNKNOWN[case]
    file = by_hand(tmp_path / "model.onnx", nodes, constants, domains=[("com.microsoft", 1)])
    with pytest.raises(UnfitError) as caught:
        rebuilt(file)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["constant_0", "constant_0_", "features", "forward", "a.b/c", "norm", "", "_", "__"])
def test_any_name_of_a_node_will_do(tmp_path, name):
    middle = [helper.make_node("Mul", [taken, "two"], [made], name=name) for taken, made in (("h", "a"), ("a", "b"))]
    file = by_hand(tmp_path / "model.onnx", [*middle, node("Relu", "b")], [real("two", [])])
    network = rebuilt(file)
    assert sorted(network.state_dict()) == sorted(rebuilt(file).state_dict())
    assert network(batch(2)).shape == (2, 3, 16, 16)


def test_a_graph_of_a_million_nodes_is_refused_before_it_is_built(tmp_path):
    file = by_hand(tmp_path / "model.onnx", [node("Relu", "h")])
    model = onnx.load(file)
    model.graph.node.extend([helper.make_node("Relu", ["h"], ["r"])] * 10**6)
    onnx.save(model, file)
    with pytest.raises(UnfitError, match=f"it has 1000002 nodes, expected at most {MAX_NODES}"):
        rebuilt(file)


def test_a_damaged_file_is_refused_or_rebuilt_and_nothing_else(tmp_path):
    nodes = [node("Conv", "h", "k", "", made="c"), node("Clip", "c", "l", made="d"), node("Reshape", "d", "s")]
    content = by_hand(tmp_path / "model.onnx", nodes, [KERNEL, real("l", []), whole("s", [0, -1])]).read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in torch.randint(len(content), (3,), generator=generator).tolist():
            damaged[place] = int(torch.randint(256, (), generator=generator))
        (tmp_path / "model.onnx").write_bytes(damaged)
        try:
            rebuilt(tmp_path / "model.onnx")
        except UnfitError:
            refused += 1
    assert 0 < refused < 300
