import json
import struct
from base64 import b64encode
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pytest
import torch
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from service.errors import MalformedError, ServiceError, TooLargeError, UnfitError, UnsupportedError
from service.types import Array, InferRequest, InferResponse, InputSpec, Limits, RequestedOutput, WireTensor
from service.wire.codec import decode_input, encode_response, parse_request, wanted_outputs
from service.wire.tensors import DATATYPES

bounded = settings(max_examples=100, deadline=None, derandomize=True, database=None)

LIMITS = Limits()
SPEC = InputSpec("image", (3, 4, 5))
RANGES = [
    pytest.param((0.0, 1.0), id="unit"),
    pytest.param((-1.0, 1.0), id="symmetric"),
    pytest.param((0.0, 255.0), id="bytes"),
]


def entry(**changes: object) -> dict[str, Any]:
    """A JSON input of the right form; a field given as ... is left out."""
    fields = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0, 0.5, 1, 0.25]} | changes
    return {key: value for key, value in fields.items() if value is not ...}


def body_of(*inputs: object, **fields: object) -> bytes:
    return orjson.dumps({"inputs": list(inputs), **fields})


def raw_body(*inputs: dict[str, Any], raw: bytes, **fields: object) -> tuple[bytes, int]:
    header = body_of(*inputs, **fields)
    return header + raw, len(header)


def raw_entry(datatype: str, shape: list[int], size: object) -> dict[str, Any]:
    return entry(datatype=datatype, shape=shape, data=..., parameters={"binary_data_size": size})


def parse(body: bytes, header_length: int | None = None) -> InferRequest:
    return parse_request(body, header_length, LIMITS)


def request_of(array: Array, datatype: str, name: str = "image") -> InferRequest:
    return InferRequest((WireTensor(name, array.shape, datatype, array),))


def png(size: tuple[int, int]) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(file, "PNG")
    return file.getvalue()


# What is of the wrong form


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="not_json"),
        pytest.param(b'{"inputs": [NaN]}', id="nan_is_not_json"),
        pytest.param(b"[" * 1000, id="too_deep_for_the_parser"),
        pytest.param(b"[1]", id="not_an_object"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no_inputs"),
        pytest.param(body_of(), id="empty_inputs"),
        pytest.param(b'{"inputs": null}', id="null_inputs"),
        pytest.param(b'{"inputs": {"name": "x"}}', id="inputs_not_an_array"),
        pytest.param(body_of("x"), id="input_not_an_object"),
        pytest.param(body_of(entry(name=...)), id="no_name"),
        pytest.param(body_of(entry(name=1)), id="name_not_a_string"),
        pytest.param(body_of(entry(shape=...)), id="no_shape"),
        pytest.param(body_of(entry(shape=4)), id="shape_not_an_array"),
        pytest.param(body_of(entry(shape=[2.0, 2])), id="shape_of_floats"),
        pytest.param(body_of(entry(shape=[True, 4])), id="shape_of_booleans"),
        pytest.param(body_of(entry(datatype=...)), id="no_datatype"),
        pytest.param(body_of(entry(datatype=["FP32"])), id="datatype_not_a_string"),
        pytest.param(body_of(entry(data=...)), id="no_data"),
        pytest.param(body_of(entry(data=0.5)), id="data_not_an_array"),
        pytest.param(body_of(entry(), entry()), id="two_inputs_of_one_name"),
        pytest.param(body_of(entry(parameters=[])), id="input_parameters_not_an_object"),
        pytest.param(body_of(entry(parameters={"a": {}})), id="input_parameter_an_object"),
        pytest.param(body_of(entry(parameters={"binary_data_size": 16})), id="data_and_binary_size"),
        pytest.param(body_of(entry(data=..., parameters={"binary_data_size": 16})), id="binary_without_header_length"),
        pytest.param(body_of(entry(), id=7), id="id_not_a_string"),
        pytest.param(body_of(entry(), parameters="a"), id="parameters_not_an_object"),
        pytest.param(body_of(entry(), parameters={"a": None}), id="parameter_null"),
        pytest.param(body_of(entry(), parameters={"a": [1]}), id="parameter_an_array"),
        pytest.param(body_of(entry(), parameters={"binary_data_output": 1}), id="binary_data_output_not_a_boolean"),
        pytest.param(body_of(entry(), outputs={}), id="outputs_not_an_array"),
        pytest.param(body_of(entry(), outputs=["labels"]), id="output_not_an_object"),
        pytest.param(body_of(entry(), outputs=[{}]), id="output_without_name"),
        pytest.param(body_of(entry(), outputs=[{"name": "a"}, {"name": "a"}]), id="an_output_named_twice"),
        pytest.param(
            body_of(entry(), outputs=[{"name": "a", "parameters": {"binary_data": "yes"}}]),
            id="binary_data_not_a_boolean",
        ),
    ],
)
def test_a_json_body_of_the_wrong_form_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(body)


@pytest.mark.parametrize(
    ("body", "header_length"),
    [
        pytest.param(body_of(entry()), 0, id="raw_request"),
        pytest.param(body_of(entry()), -1, id="negative_header_length"),
        pytest.param(body_of(entry()), 10_000, id="header_beyond_the_body"),
        pytest.param(body_of(entry()), 10, id="header_cuts_the_json"),
        pytest.param(*raw_body(raw_entry("FP32", [2], 8), raw=bytes(7)), id="truncated"),
        pytest.param(*raw_body(raw_entry("FP32", [2], 8), raw=bytes(9)), id="surplus"),
        pytest.param(*raw_body(entry(), raw=bytes(1)), id="surplus_behind_json_data"),
        pytest.param(*raw_body(raw_entry("FP32", [2], -8), raw=b""), id="negative_size"),
        pytest.param(*raw_body(raw_entry("FP32", [2], "8"), raw=bytes(8)), id="size_not_an_integer"),
        pytest.param(*raw_body(raw_entry("BYTES", [1], 3), raw=bytes(3)), id="bytes_length_truncated"),
        pytest.param(*raw_body(raw_entry("BYTES", [1], 6), raw=struct.pack("<I2s", 3, b"ab")), id="bytes_truncated"),
        pytest.param(*raw_body(raw_entry("BYTES", [1], 4), raw=b"\xff" * 4), id="bytes_length_of_four_gigabytes"),
    ],
)
def test_a_binary_body_of_the_wrong_form_is_malformed(body: bytes, header_length: int) -> None:
    with pytest.raises(MalformedError):
        parse(body, header_length)


def test_a_raw_request_is_refused_with_its_reason() -> None:
    with pytest.raises(MalformedError, match="raw requests without a JSON header are not served"):
        parse(bytes(16), 0)


def test_a_malformed_input_wins_over_an_unfit_one_before_it() -> None:
    with pytest.raises(MalformedError, match="'y'"):
        parse(body_of(entry(datatype="FP8"), entry(name="y", data=...)))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"datatype": ["y" * 100_000] * 100}, id="long_strings"),
        pytest.param({"datatype": [[[["y"] * 15] * 15] * 15] * 15}, id="nested_lists"),
        pytest.param({"datatype": {f"{i}": "y" * 1000 for i in range(1000)}}, id="a_large_object"),
        pytest.param({"datatype": "y" * 100_000}, id="a_long_datatype"),
        pytest.param({"shape": [1] * 100_000}, id="a_long_shape"),
    ],
)
def test_an_error_stays_short_whatever_was_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(ServiceError) as caught:
        parse(body_of(entry(**{"name": "x" * 100_000, **changes})))

    assert len(str(caught.value)) < 500


# The right form with wrong values


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(body_of(entry(datatype="BF16")), "datatype is not known", id="unknown_datatype"),
        pytest.param(body_of(entry(shape=[])), "0 dimensions", id="no_dimensions"),
        pytest.param(body_of(entry(shape=[1] * 9)), "9 dimensions", id="too_many_dimensions"),
        pytest.param(body_of(entry(shape=[2, 0], data=[])), "at least 1", id="zero_dimension"),
        pytest.param(body_of(entry(shape=[2, -2])), "at least 1", id="negative_dimension"),
        pytest.param(body_of(entry(shape=[2, 3])), "4 values were given; the shape takes 6", id="too_few_values"),
        pytest.param(body_of(entry(shape=[2, 1])), "4 values were given; the shape takes 2", id="too_many_values"),
        pytest.param(body_of(entry(shape=[1] + [2**63] * 7)), "4 values were given", id="a_huge_shape"),
        pytest.param(body_of(entry(data=[[0, 1], [2]])), "ragged", id="ragged"),
        pytest.param(body_of(entry(data=[[0, 1], 2])), "ragged", id="mixed_depth"),
        pytest.param(body_of(entry(data=[0, 1, 2, [3]])), "numbers are expected", id="an_array_among_values"),
        pytest.param(body_of(entry(data=[[0, 1], [2, 3], [4, 5]])), "another shape", id="nested_as_another_shape"),
        pytest.param(body_of(entry(data=["a", 1, 2, 3])), "'a' was given", id="text_for_a_number"),
        pytest.param(body_of(entry(data=[None, 1, 2, 3])), "None was given", id="null_for_a_number"),
        pytest.param(body_of(entry(data=[True, 1, 2, 3])), "True was given", id="boolean_for_a_number"),
        pytest.param(body_of(entry(data=[1e39, 1, 2, 3])), "beyond the datatype's range", id="beyond_fp32"),
        pytest.param(body_of(entry(datatype="FP16")), "send it as binary", id="fp16_in_json"),
        pytest.param(body_of(entry(datatype="INT32")), "integers", id="fractions_for_integers"),
        pytest.param(body_of(entry(datatype="UINT8", data=[0, 1, 2, 256])), "0 to 255", id="beyond_uint8"),
        pytest.param(body_of(entry(datatype="UINT64", data=[0, 1, 2, -1])), "from -1 to 2", id="below_uint64"),
        pytest.param(
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "UINT64", "data": [18446744073709551616]}]}',
            "64 bits",
            id="beyond_uint64",
        ),
        pytest.param(body_of(entry(datatype="BOOL", data=[0, 1, 1, 1])), "true and false", id="numbers_for_booleans"),
        pytest.param(body_of(entry(datatype="BYTES", shape=[1], data=["%%%%"])), "base64", id="not_base64"),
        pytest.param(body_of(entry(datatype="BYTES", shape=[1], data=["é"])), "base64", id="not_even_ascii"),
        pytest.param(body_of(entry(datatype="BYTES", shape=[1], data=[1])), "base64", id="number_for_bytes"),
        pytest.param(
            body_of(entry(), outputs=[{"name": "labels", "parameters": {"classification": 3}}]),
            "classification is not served",
            id="classification",
        ),
    ],
)
def test_json_values_of_the_wrong_kind_are_unfit(body: bytes, message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        parse(body)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        pytest.param("FP32", [3], bytes(8), "8 bytes were given; the shape takes 12", id="too_few_bytes"),
        pytest.param("FP64", [1], bytes(16), "16 bytes were given; the shape takes 8", id="too_many_bytes"),
        pytest.param("INT64", [1] + [2**63] * 7, bytes(8), "8 bytes were given", id="a_huge_shape"),
        pytest.param("FP32", [0], b"", "at least 1", id="nothing"),
        pytest.param("BOOL", [2], b"\x01\x02", "a BOOL is 0 or 1", id="bool_of_two"),
        pytest.param("BYTES", [2], bytes(4), "1 elements were given; the shape takes 2", id="too_few_elements"),
        pytest.param("BYTES", [1], bytes(8), "the shape takes no more", id="too_many_elements"),
    ],
)
def test_raw_values_that_do_not_match_their_declaration_are_unfit(
    datatype: str, shape: list[int], raw: bytes, message: str
) -> None:
    with pytest.raises(UnfitError, match=message):
        parse(*raw_body(raw_entry(datatype, shape, len(raw)), raw=raw))


def test_a_batch_beyond_the_limit_is_too_large_before_its_values_are_looked_at() -> None:
    with pytest.raises(TooLargeError, match="a batch of 257; at most 256"):
        parse(body_of(entry(shape=[257, 1])))


# What is right


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        pytest.param("FP32", [0, 0.5, 1, 0.25], [[0, 0.5], [1, 0.25]], id="flat_row_major"),
        pytest.param("FP32", [[0, 0.5], [1, 0.25]], [[0, 0.5], [1, 0.25]], id="nested"),
        pytest.param("FP64", [1e300, 0, 0, 0], [[1e300, 0], [0, 0]], id="double"),
        pytest.param("BOOL", [True, False, False, True], [[True, False], [False, True]], id="booleans"),
        pytest.param("UINT64", [2**64 - 1, 0, 1, 2], [[2**64 - 1, 0], [1, 2]], id="largest_unsigned"),
        pytest.param("INT64", [-(2**63), 0, 1, 2], [[-(2**63), 0], [1, 2]], id="lowest_signed"),
    ],
)
def test_json_data_become_an_array_of_the_declared_shape(datatype: str, data: list[Any], expected: list[Any]) -> None:
    tensor = parse(body_of(entry(datatype=datatype, data=data))).inputs[0]

    assert isinstance(tensor.data, np.ndarray)
    assert tensor.data.dtype == DATATYPES[datatype]
    assert tensor.data.tolist() == expected


@pytest.mark.parametrize(
    ("shape", "data"), [pytest.param([2], ["AAE=", ""], id="flat"), pytest.param([2, 1], [["AAE="], [""]], id="nested")]
)
def test_bytes_in_json_are_base64(shape: list[int], data: list[Any]) -> None:
    assert parse(body_of(entry(datatype="BYTES", shape=shape, data=data))).inputs[0].data == [b"\x00\x01", b""]


def test_binary_and_json_inputs_mix_in_any_order() -> None:
    body, length = raw_body(
        raw_entry("INT16", [2], 4) | {"name": "a"},
        entry(name="b"),
        raw_entry("BYTES", [1], 6) | {"name": "c"},
        raw=struct.pack("<hh", 1, -2) + struct.pack("<I2s", 2, b"hi"),
    )

    a, b, c = (tensor.data for tensor in parse(body, length).inputs)

    np.testing.assert_array_equal(a, [1, -2])
    np.testing.assert_array_equal(b, [[0, 0.5], [1, 0.25]])
    assert c == [b"hi"]


def test_what_a_request_says_beside_its_inputs_is_kept() -> None:
    parameters = {"sequence_id": 7, "sequence_start": True, "note": "a", "weight": 0.5}
    outputs = [
        {"name": "labels"},
        {"name": "logits", "parameters": {"binary_data": True}},
        {"name": "probabilities", "parameters": {"binary_data": False}},
    ]

    request = parse(
        body_of(entry(), id="r1", parameters=parameters | {"binary_data_output": True}, outputs=outputs, other=[1])
    )

    assert (request.id, request.parameters, request.binary_output) == ("r1", parameters, True)
    assert request.outputs == (
        RequestedOutput("labels"),
        RequestedOutput("logits", True),
        RequestedOutput("probabilities", False),
    )


def test_null_in_an_optional_field_is_as_if_it_were_left_out() -> None:
    request = parse(body_of(entry(parameters=None), id=None, parameters=None, outputs=None))

    assert (request.id, request.parameters, request.outputs, request.binary_output) == ("", {}, (), False)


def test_the_digest_tells_bodies_and_header_lengths_apart() -> None:
    body = body_of(entry(), id="r1")
    digests = {parse(body).digest, parse(body, len(body)).digest, parse(body + b" ").digest}

    assert len(digests) == 3
    assert parse(body).digest == parse(body).digest
    assert all(len(digest) == 64 for digest in digests)


def test_a_request_without_an_id_cannot_be_sent_again_and_has_no_digest() -> None:
    assert parse(body_of(entry())).digest == ""


def test_raw_values_are_a_view_and_not_a_copy() -> None:
    body, length = raw_body(raw_entry("FP32", [2], 8), raw=struct.pack("<ff", 0.5, 1))
    data = parse(body, length).inputs[0].data

    assert isinstance(data, np.ndarray)
    assert not data.flags.owndata
    assert not data.flags.writeable


# Round trips


def arrays(datatype: str) -> st.SearchStrategy[Array]:
    return hnp.arrays(DATATYPES[datatype], hnp.array_shapes(min_dims=1, max_dims=5, max_side=4))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Array]:
    datatype = draw(st.sampled_from([*DATATYPES, "BYTES"]))
    if datatype != "BYTES":
        return datatype, draw(arrays(datatype))
    files = draw(st.lists(st.binary(max_size=9), min_size=1, max_size=5))
    return datatype, np.array(files, dtype=np.object_)


def triton_body(named: dict[str, tuple[str, Array]], *, binary: bool = True, **fields: Any) -> tuple[bytes, int | None]:
    inputs = []
    for name, (datatype, array) in named.items():
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return triton.InferenceServerClient.generate_request_body(inputs, **fields)


@bounded
@given(st.lists(tensors(), min_size=1, max_size=3))
def test_every_datatype_comes_back_from_a_binary_request_bit_by_bit(sent: list[tuple[str, Array]]) -> None:
    body, length = triton_body({f"x{i}": tensor for i, tensor in enumerate(sent)})

    received = parse(body, length).inputs

    assert [(t.name, t.datatype) for t in received] == [(f"x{i}", datatype) for i, (datatype, _) in enumerate(sent)]
    for tensor, (datatype, array) in zip(received, sent, strict=True):
        assert tensor.shape == array.shape
        if datatype == "BYTES":
            assert tensor.data == array.tolist()
        else:
            assert isinstance(tensor.data, np.ndarray)
            assert tensor.data.dtype == array.dtype
            assert tensor.data.tobytes() == array.tobytes()


@bounded
@given(st.sampled_from([d for d in DATATYPES if d != "FP16"]).flatmap(lambda d: st.tuples(st.just(d), arrays(d))))
def test_every_datatype_comes_back_from_a_json_request(sent: tuple[str, Array]) -> None:
    datatype, array = sent
    finite = np.nan_to_num(array, nan=0, posinf=1, neginf=-1) if array.dtype.kind == "f" else array
    body, length = triton_body({"x": (datatype, finite)}, binary=False)

    tensor = parse(body, length).inputs[0]

    assert length is None
    np.testing.assert_array_equal(tensor.data, finite, strict=True)


# No body, however strange, raises anything but a refusal

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, JSON_VALUES)


PARAMETERS = st.fixed_dictionaries(
    {}, optional={"binary_data_size": mostly(st.integers(-1, 40)), "binary_data": mostly(st.booleans())}
)
INPUTS = st.fixed_dictionaries(
    {
        "name": mostly(st.text(max_size=2)),
        "shape": mostly(st.lists(st.integers(-1, 3), max_size=3)),
        "datatype": mostly(st.sampled_from([*DATATYPES, "BYTES", "BF16"])),
    },
    optional={
        "data": mostly(st.lists(st.integers(0, 300) | st.floats(0, 1) | st.just("AAE=") | st.booleans(), max_size=9)),
        "parameters": mostly(PARAMETERS),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(INPUTS, max_size=2))},
    optional={
        "id": mostly(st.text(max_size=3)),
        "parameters": mostly(st.dictionaries(st.just("binary_data_output") | st.text(max_size=3), JSON_VALUES)),
        "outputs": mostly(st.lists(st.fixed_dictionaries({"name": mostly(st.text()), "parameters": PARAMETERS}))),
    },
)


def parses_or_refuses(body: bytes, header_length: int | None) -> None:
    with suppress(ServiceError):
        decode_input(parse_request(body, header_length, LIMITS), SPEC, LIMITS)


@bounded
@given(st.binary(max_size=200), st.none() | st.integers(-2, 250))
def test_any_bytes_parse_or_are_refused(body: bytes, header_length: int | None) -> None:
    parses_or_refuses(body, header_length)


@settings(bounded, max_examples=400)
@given(mostly(REQUESTS), st.binary(max_size=40), st.sampled_from([None, 0, 0, 0, -1, 1]))
def test_any_json_parses_or_is_refused(document: Any, raw: bytes, offset: int | None) -> None:
    header = orjson.dumps(document)
    parses_or_refuses(header + raw, None if offset is None else len(header) + offset)


@bounded
@given(INPUTS, st.binary(max_size=40))
def test_any_input_with_its_own_raw_bytes_parses_or_is_refused(changes: dict[str, Any], raw: bytes) -> None:
    tensor = changes | {"parameters": {"binary_data_size": len(raw)}}
    tensor.pop("data", None)
    parses_or_refuses(*raw_body(tensor, raw=raw))


# From a request to the model's input


@pytest.mark.parametrize("value_range", RANGES)
def test_floats_within_the_value_range_are_taken_as_they_are(value_range: tuple[float, float]) -> None:
    low, high = value_range
    array = np.linspace(low, high, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)

    decoded = decode_input(request_of(array, "FP32"), InputSpec("image", (3, 4, 5), value_range=value_range), LIMITS)

    assert decoded.dtype == torch.float32
    assert decoded.is_contiguous()
    np.testing.assert_array_equal(decoded.numpy(), array)


@pytest.mark.parametrize("value_range", RANGES)
def test_bytes_span_the_value_range(value_range: tuple[float, float]) -> None:
    low, high = value_range
    array = np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5)
    array[0, 0, 0, :2] = 0, 255

    decoded = decode_input(request_of(array, "UINT8"), InputSpec("image", (3, 4, 5), value_range=value_range), LIMITS)

    expected = array.astype(np.float64) / 255 * (high - low) + low
    np.testing.assert_allclose(decoded.numpy(), expected, rtol=1e-6, atol=1e-6)
    assert decoded[0, 0, 0, :2].tolist() == [low, high]


def test_bytes_are_scaled_as_in_training_to_the_last_bit() -> None:
    array = np.arange(240, dtype=np.uint8).reshape(4, 3, 4, 5)

    decoded = decode_input(request_of(array, "UINT8"), SPEC, LIMITS)

    assert torch.equal(decoded, torch.from_numpy(array.copy()).float() / 255)


def test_the_decoded_tensor_shares_no_memory_with_a_body_that_is_not_to_be_written_to() -> None:
    body, length = triton_body({"image": ("FP32", np.zeros((2, 3, 4, 5), np.float32))})
    request = parse(body, length)

    decode_input(request, SPEC, LIMITS).fill_(9)

    assert float(decode_input(request, SPEC, LIMITS).max()) == 0


@pytest.mark.parametrize(("lead", "in_place"), [(64, True), (65, False)])
def test_values_that_are_aligned_and_may_be_written_to_stay_where_they_are(lead: int, in_place: bool) -> None:
    array = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    room = np.zeros(lead + array.nbytes, np.uint8)
    values = room[lead:]
    values[:] = np.frombuffer(array.tobytes(), np.uint8)
    request = request_of(values.view("<f4").reshape(array.shape), "FP32")

    decoded = decode_input(request, SPEC, LIMITS)

    np.testing.assert_array_equal(decoded.numpy(), array)
    assert np.shares_memory(decoded.numpy(), room) == in_place


@pytest.mark.parametrize("padding", range(4))
def test_raw_tensors_at_any_alignment_decode(padding: int) -> None:
    array = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    body, length = raw_body(
        {"name": "image", "shape": [2, 3, 4, 5], "datatype": "FP32", "parameters": {"binary_data_size": 480}},
        raw=array.tobytes(),
        id="i" * padding,
    )

    np.testing.assert_array_equal(decode_input(parse(body, length), SPEC, LIMITS).numpy(), array)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        pytest.param(request_of(np.zeros((1, 3, 4, 5), np.float32), "FP32", "x"), "exactly one, 'image'", id="name"),
        pytest.param(InferRequest(()), "exactly one", id="none"),
        pytest.param(
            InferRequest((WireTensor("image", (1,), "BYTES", [b""]), WireTensor("y", (1,), "BYTES", [b""]))),
            r"\['image', 'y'\]",
            id="two",
        ),
        pytest.param(request_of(np.zeros((1, 3, 4, 5)), "FP64"), "FP32, UINT8 or BYTES", id="datatype"),
        pytest.param(request_of(np.zeros((1, 4, 5, 3), np.float32), "FP32"), r"\['N', 3, 4, 5\]", id="channels_last"),
        pytest.param(request_of(np.zeros((3, 4, 5), np.float32), "FP32"), r"\['N', 3, 4, 5\]", id="no_batch"),
        pytest.param(
            InferRequest((WireTensor("image", (1, 2), "BYTES", [b"", b""]),)), r"\['N', 1\]", id="two_files_a_row"
        ),
    ],
)
def test_another_input_than_the_models_is_unfit(request_: InferRequest, message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        decode_input(request_, SPEC, LIMITS)


@pytest.mark.parametrize("position", [0, 59])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_unfit(value: float, position: int) -> None:
    array = np.zeros((1, 3, 4, 5), np.float32)
    array.flat[position] = value

    with pytest.raises(UnfitError, match="NaN or infinite"):
        decode_input(request_of(array, "FP32"), SPEC, LIMITS)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0])
def test_values_outside_the_range_are_unfit_and_named(value: float) -> None:
    array = np.full((1, 3, 4, 5), value, np.float32)

    with pytest.raises(UnfitError, match=rf"to {value:.6g}; 0 to 1 is expected .*standardised"):
        decode_input(request_of(array, "FP32"), SPEC, LIMITS)


@pytest.mark.parametrize("value", [-0.0009, 1.0009])
def test_values_a_rounding_outside_the_range_are_taken(value: float) -> None:
    array = np.full((1, 3, 4, 5), value, np.float32)

    assert torch.equal(decode_input(request_of(array, "FP32"), SPEC, LIMITS), torch.full((1, 3, 4, 5), value))


@pytest.mark.parametrize("shape", [pytest.param([2], id="n"), pytest.param([2, 1], id="n_1")])
@pytest.mark.parametrize("binary", [True, False])
def test_encoded_images_decode_from_binary_and_from_base64(shape: list[int], binary: bool) -> None:
    files = [png((5, 4)), png((9, 9))]
    if binary:
        array = np.array(files, dtype=np.object_).reshape(shape)
        request = parse(*triton_body({"image": ("BYTES", array)}))
    else:
        texts = [b64encode(file).decode() for file in files]
        request = parse(body_of(entry(name="image", shape=shape, datatype="BYTES", data=texts)))

    decoded = decode_input(request, SPEC, LIMITS)

    assert decoded.shape == (2, 3, 4, 5)
    assert decoded.mean(dim=(0, 2, 3)).tolist() == [1, 0, 0]


# Answers

OUTPUTS: dict[str, Array] = {
    "logits": np.array([[-1.5, 2.25], [0.1, 1e-30]], np.float32),
    "labels": np.array([1, 0], np.int64),
    "flags": np.array([True, False]),
}
RESPONSE = InferResponse("demo", "1", "r1", {"tta_steps": 3, "tta_entropy": 0.5, "tta_mode": "adapt"}, OUTPUTS)


def triton_result(body: bytes, header_length: int | None) -> Any:
    return triton.InferenceServerClient.parse_response_body(body, header_length=header_length)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DATATYPES.values(), ids=list(DATATYPES))
def test_the_triton_client_reads_every_datatype(dtype: np.dtype[Any], binary: bool) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    response = InferResponse("demo", "1", "", {}, {"y": array, "turned": array.T})

    result = triton_result(*encode_response(response, InferRequest((), binary_output=binary)))

    np.testing.assert_array_equal(result.as_numpy("y"), array, strict=True)
    np.testing.assert_array_equal(result.as_numpy("turned"), array.T, strict=True)


def test_a_plain_request_gets_all_outputs_in_json() -> None:
    body, length = encode_response(RESPONSE, InferRequest(()))

    assert length is None
    assert json.loads(body) == {
        "model_name": "demo",
        "model_version": "1",
        "id": "r1",
        "parameters": {"tta_steps": 3, "tta_entropy": 0.5, "tta_mode": "adapt"},
        "outputs": [
            {
                "name": "logits",
                "shape": [2, 2],
                "datatype": "FP32",
                "data": [-1.5, 2.25, pytest.approx(0.1), pytest.approx(1e-30)],
            },
            {"name": "labels", "shape": [2], "datatype": "INT64", "data": [1, 0]},
            {"name": "flags", "shape": [2], "datatype": "BOOL", "data": [True, False]},
        ],
    }


def test_an_output_says_for_itself_whether_it_is_binary() -> None:
    request = InferRequest((), outputs=(RequestedOutput("labels", False), RequestedOutput("logits")))
    binary = InferRequest((), outputs=request.outputs, binary_output=True)

    plain_body, plain_length = encode_response(RESPONSE, request)
    body, length = encode_response(RESPONSE, binary)

    assert plain_length is None
    assert [output["name"] for output in json.loads(plain_body)["outputs"]] == ["labels", "logits"]
    assert length is not None
    header = json.loads(body[:length])
    assert header["outputs"] == [
        {"name": "labels", "shape": [2], "datatype": "INT64", "data": [1, 0]},
        {"name": "logits", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
    ]
    assert body[length:] == OUTPUTS["logits"].tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_the_triton_client_reads_the_outputs_it_asked_for(binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("labels", "logits")]
    image = np.zeros((1, 3, 4, 5), np.float32)
    request = parse(*triton_body({"image": ("FP32", image)}, outputs=outputs, request_id="r1", sequence_id=7))

    result = triton_result(*encode_response(RESPONSE, request))

    assert request.parameters == {"sequence_id": 7, "sequence_start": False, "sequence_end": False}
    assert result.get_response()["id"] == "r1"
    np.testing.assert_array_equal(result.as_numpy("logits"), OUTPUTS["logits"])
    np.testing.assert_array_equal(result.as_numpy("labels"), OUTPUTS["labels"])
    assert result.as_numpy("flags") is None


def test_the_triton_client_without_outputs_gets_all_of_them_in_binary() -> None:
    request = parse(*triton_body({"image": ("FP32", np.zeros((1, 3, 4, 5), np.float32))}))

    body, length = encode_response(RESPONSE, request)

    assert request.binary_output
    assert length is not None
    assert sorted(output["name"] for output in json.loads(body[:length])["outputs"]) == sorted(OUTPUTS)


def test_wanted_outputs_are_those_named_in_their_order() -> None:
    request = InferRequest((), outputs=(RequestedOutput("c"), RequestedOutput("a")))

    assert wanted_outputs(request, ["a", "b", "c"], on_request=["c"]) == ("c", "a")
    assert wanted_outputs(InferRequest(()), ["a", "b", "c"]) == ("a", "b", "c")


def test_an_unknown_output_is_unfit_and_the_known_ones_are_listed() -> None:
    request = InferRequest((), outputs=(RequestedOutput("logit"),))

    with pytest.raises(UnfitError, match="no output 'logit'; there are: logits, labels, flags"):
        encode_response(RESPONSE, request)


def test_values_that_are_not_finite_leave_the_json_valid() -> None:
    response = InferResponse("m", "1", "", {"tta_entropy": float("nan")}, {"y": np.array([np.nan, np.inf])})

    body, _ = encode_response(response, InferRequest(()))

    assert orjson.loads(body)["outputs"][0]["data"] == [None, None]


def test_an_array_without_a_datatype_is_unsupported() -> None:
    response = InferResponse("m", "1", "", {}, {"y": np.array([1j])})

    with pytest.raises(UnsupportedError, match="complex128"):
        encode_response(response, InferRequest(()))
