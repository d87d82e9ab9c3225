"""What is refused over HTTP, by name, and that it changes nothing."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.applications import INFER, JSON, MAX_BODY, OCTETS, application, assert_error
from tests.bundles import torch_bundle
from tests.serving import images


def tensor(x=None, **changes):
    x = images(2) if x is None else x
    made = {"name": "images", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist(), **changes}
    return {name: value for name, value in made.items() if value is not None}


def inputs(*tensors, **more):
    return {"json": {"inputs": list(tensors), **more}}


def sequence(**parameters):
    return inputs(tensor(), parameters=parameters)


def binary(x, *, cut=0, header_length=None):
    """A body of a JSON header and then raw values, less `cut` bytes at its end."""
    raw = x.astype("<f4").tobytes()
    header = json.dumps({"inputs": [tensor(x, data=None, parameters={"binary_data_size": len(raw)})]}).encode()
    length = str(len(header) if header_length is None else header_length)
    return {
        "content": (header + raw)[: len(header) + len(raw) - cut],
        "headers": {**OCTETS, "Inference-Header-Content-Length": length},
    }


def with_value(value):
    x = images(2)
    x[1, 2, 3, 4] = value
    return x


def encoded(width, height, mode="RGB", form="PNG"):
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, form)
    return file.getvalue()


def image(content, content_type="image/png"):
    return {"content": content, "headers": {"Content-Type": content_type}}


async def unannounced(content):
    """A body whose length is not told in advance."""
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]


NOT_JSON = "is not JSON"
LARGE = b" " * (MAX_BODY + 1)
BAD_INFERENCE = {
    "malformed_json": ({"content": b'{"inputs": [', "headers": JSON}, 400, NOT_JSON),
    "empty_body": ({}, 400, NOT_JSON),
    "nan_in_json": ({"content": b'{"inputs": [NaN]}', "headers": JSON}, 400, NOT_JSON),
    "not_utf8": ({"content": b'{"id": "\xff"}', "headers": JSON}, 400, NOT_JSON),
    "deep_json": ({"content": b"[" * 100_000, "headers": JSON}, 413, "nested 100000 deep, expected at most 64"),
    "an_array": ({"json": []}, 400, "object"),
    "no_inputs": ({"json": {}}, 400, "no inputs"),
    "inputs_empty": (inputs(), 400, "no inputs"),
    "inputs_no_array": ({"json": {"inputs": "x"}}, 400, "inputs is 'x'; an array is expected"),
    "input_without_name": (inputs(tensor(name=None)), 400, "name is missing"),
    "input_without_shape": (inputs(tensor(shape=None)), 400, "shape is missing"),
    "input_without_datatype": (inputs(tensor(datatype=None)), 400, "datatype is missing"),
    "input_without_data": (inputs(tensor(data=None)), 400, "either data or the parameter binary_data_size"),
    "id_no_string": (inputs(tensor(), id=7), 400, "id is 7; a string is expected"),
    "parameters_no_object": (inputs(tensor(), parameters=[]), 400, "parameters is []; an object is expected"),
    "wrong_dtype": (inputs(tensor(datatype="FP64")), 422, "'images' is FP64; FP32, UINT8 or BYTES"),
    "unknown_dtype": (inputs(tensor(datatype="FP8")), 422, "the datatype is not known; there are: BOOL"),
    "wrong_shape": (inputs(tensor(images(1)[:, :, :8, :8])), 422, "shape [1, 3, 8, 8]; ['N', 3, 16, 16] is expected"),
    "wrong_number_of_values": (inputs(tensor(data=[0.5] * 7)), 422, "7 values were given; the shape takes 1536"),
    "ragged": (inputs(tensor(shape=[2, 2], data=[[1, 2], [3]])), 422, "ragged"),
    "no_images": (inputs(tensor(np.zeros((0, 3, 16, 16)))), 422, "every dimension must be at least 1"),
    "text_among_values": (inputs(tensor(data=["x"] * 1536)), 422, "'x' was given among the values; numbers"),
    "another_input": (inputs(tensor(name="x")), 422, "The inputs are ['x']; exactly one, 'images', is expected"),
    "two_inputs": (inputs(tensor(), tensor(name="more")), 422, "exactly one, 'images', is expected"),
    "one_input_twice": (inputs(tensor(), tensor()), 400, "More than one of the inputs is named 'images'"),
    "nan": (binary(with_value(np.nan)), 422, "holds NaN or infinite values"),
    "infinity": (binary(with_value(np.inf)), 422, "holds NaN or infinite values"),
    "minus_infinity": (binary(with_value(-np.inf)), 422, "holds NaN or infinite values"),
    "out_of_range": (binary(with_value(2.5)), 422, "to 2.5; 0 to 1 is expected"),
    "truncated": (binary(images(2), cut=1), 400, "the inputs' binary_data_size add up to 6144"),
    "half_a_header": (binary(images(2), header_length=20), 400, NOT_JSON),
    "header_beyond_the_body": (binary(images(2), header_length=10**6), 400, "Header-Content-Length is 1000000"),
    "negative_header_length": (binary(images(2), header_length=-1), 422, "Inference-Header-Content-Length is '-1'"),
    "spelled_header_length": (binary(images(2), header_length="ten"), 422, "expected a number of bytes such as 196"),
    "unknown_output": (inputs(tensor(), outputs=[{"name": "scores"}]), 422, "no output 'scores'; there are: logits"),
    "classification": (
        inputs(tensor(), outputs=[{"name": "logits", "parameters": {"classification": 3}}]), 422, "classification"
    ),
    "100_megapixels": (image(encoded(10_000, 10_000, "1")), 413, "Image 0 has too many pixels"),
    "20_megapixels": (image(encoded(5_000, 4_000, "1")), 413, "at most 16000000 are allowed"),
    "no_image": (image(b"GIF89a not really"), 422, "is not a readable JPEG or PNG file"),
    "half_an_image": (image(encoded(64, 64)[:60]), 422, "is not a readable JPEG or PNG file"),
    "no_image_at_all": (image(b""), 422, "(0 bytes"),
    "image_tensor_not_base64": (inputs(tensor(shape=[1], datatype="BYTES", data=["*"])), 422, "must be base64 strings"),
    "form_without_file": ({"files": {"image": (None, "text")}}, 400, "the form holds no file"),
    "form_without_boundary": (image(b"x", "multipart/form-data"), 400, "boundary"),
    "batch_too_large": (binary(images(9)), 413, "a batch of 9; at most 8 are allowed"),
    "too_many_images": ({"files": [("image", encoded(1, 1))] * 9}, 413, "9 images were given; 1 to 8 are expected"),
    "body_too_large": ({"content": LARGE, "headers": JSON}, 413, f"has {MAX_BODY + 1} bytes, expected at most"),
    "body_too_large_unannounced": ({"content": LARGE, "headers": JSON}, 413, f"more than {MAX_BODY} bytes"),
    "content_type": (image(b"<x/>", "application/xml"), 415, "Content-Type is 'application/xml', expected one of"),
    "webp": (image(b"RIFF", "image/webp"), 415, "Content-Type is 'image/webp'"),
    "plain_text": (image(b"{}", "text/plain"), 415, "Content-Type is text/plain"),
    "stream_id_outside_in_body": (sequence(sequence_id="../x"), 422, "the stream id '../x' is not of the form"),
    "stream_id_outside_in_header": (
        inputs(tensor()) | {"headers": {"X-Stream-Id": "../x"}}, 422, "the stream id '../x' is not of the form"
    ),
    "stream_id_too_long": (sequence(sequence_id="x" * 129), 422, "is not of the form"),
    "stream_id_much_too_long": (sequence(sequence_id="x" * 100_000), 422, "is not of the form"),
    "stream_id_too_long_in_header": (
        inputs(tensor()) | {"headers": {"X-Stream-Id": "x" * 129}},
        422,
        "is not of the form",
    ),
    "stream_id_of_one_dot": (sequence(sequence_id="."), 422, "the stream id '.' is not of the form"),
    "stream_id_with_line_end": (sequence(sequence_id="x\n"), 422, "is not of the form"),
    "stream_id_negative": (sequence(sequence_id=-1), 422, "the stream id '-1' is not of the form"),
    "sequence_id_boolean": (sequence(sequence_id=True), 422, "sequence_id is True, expected a string or an integer"),
    "sequence_id_false": (sequence(sequence_id=False), 422, "sequence_id is False, expected a string or an integer"),
    "sequence_id_fraction": (sequence(sequence_id=1.5), 422, "sequence_id is 1.5, expected a string or an integer"),
    "sequence_id_array": (sequence(sequence_id=[1]), 400, "'sequence_id' is [1]; a string, a number or a boolean"),
    "sequence_start_text": (sequence(sequence_id="known", sequence_start="yes"), 422, "is 'yes', expected true"),
    "sequence_end_number": (sequence(sequence_id="known", sequence_end=1), 422, "is 1, expected true or false"),
    "two_stream_ids": (
        sequence(sequence_id="known") | {"headers": {"X-Stream-Id": "more"}}, 400, "X-Stream-Id is 'more'"
    ),
    "stream_of_another_model": (
        sequence(sequence_id="elsewhere"), 409, "stream 'elsewhere' belongs to model 'second', not 'reference'"
    ),
}  # fmt: skip
ABOUT_STREAMS = {
    "malformed_json": ("POST", "", {"content": b"{", "headers": JSON}, 400, "JSON"),
    "no_body": ("POST", "", {}, 422, "body"),
    "an_array": ("POST", "", {"json": []}, 422, "body"),
    "unknown_field": (
        "POST",
        "",
        {"json": {"model": "reference", "mod": 1}},
        422,
        "mod is not known here",
    ),
    "id_outside": (
        "POST",
        "",
        {"json": {"id": "../x"}},
        422,
        "id is '../x', expected a letter or digit, then",
    ),
    "id_too_long": (
        "POST",
        "",
        {"json": {"id": "x" * 129}},
        422,
        ", expected a letter or digit, then at most 127",
    ),
    "id_empty": ("POST", "", {"json": {"id": ""}}, 422, "id is '', expected a letter or digit"),
    "id_taken": ("POST", "", {"json": {"id": "known", "model": "reference"}}, 409, "there is a stream 'known' already"),
    "model_not_named": ("POST", "", {"json": {}}, 422, "several models are served; name one of reference, second"),
    "model_unknown": ("POST", "", {"json": {"model": "nope"}}, 404, "no model 'nope'; served are reference, second"),
    "mode_unknown": ("POST", "", {"json": {"mode": "off"}}, 422, "'adapt', 'frozen' or 'shadow'"),
    "batch_zero": ("POST", "", {"json": {"adapt_batch_size": 0}}, 422, "adapt_batch_size"),
    "batch_beyond": ("POST", "", {"json": {"adapt_batch_size": 5000}}, 422, "adapt_batch_size"),
    "get_unknown": ("GET", "/nope", {}, 404, "there is no stream 'nope'"),
    "get_long": ("GET", f"/{'x' * 200}", {}, 404, "there is no stream 'xxx"),
    "get_outside": ("GET", "/..%2Fx", {}, 404, "there is nothing at /v1/streams/../x"),
    "get_dots": ("GET", "/%2e%2e", {}, 404, ""),
    "patch_unknown": ("PATCH", "/nope", {"json": {"mode": "frozen"}}, 404, "there is no stream 'nope'"),
    "patch_mode": ("PATCH", "/known", {"json": {"mode": "off"}}, 422, "'adapt', 'frozen' or 'shadow'"),
    "patch_unknown_field": ("PATCH", "/known", {"json": {"generation": 0}}, 422, "generation is not known here"),
    "patch_malformed": ("PATCH", "/known", {"content": b"{", "headers": JSON}, 400, "JSON"),
    "delete_unknown": ("DELETE", "/nope", {}, 404, "there is no stream 'nope'"),
    "reset_unknown": ("POST", "/nope/reset", {}, 404, "there is no stream 'nope'"),
    "snapshot_unknown": ("POST", "/nope/snapshots", {}, 404, "there is no stream 'nope'"),
    "snapshot_name": ("POST", "/known/snapshots", {"json": {"name": "../x"}}, 422, "name is '../x', expected a letter"),
    "snapshot_note": (
        "POST",
        "/known/snapshots",
        {"json": {"note": "x" * 5000}},
        422,
        "at most 4096 characters",
    ),
    "restore_unknown": ("POST", "/nope/restore", {"json": {"snapshot": "a" * 24}}, 404, "there is no stream 'nope'"),
    "restore_nothing": ("POST", "/known/restore", {"json": {}}, 422, "snapshot is missing"),
    "restore_missing": ("POST", "/known/restore", {"json": {"snapshot": "a" * 24}}, 404, "there is no snapshot 'aaaa"),
    "restore_outside": ("POST", "/known/restore", {"json": {"snapshot": "../x"}}, 404, "there is no snapshot '../x'"),
    "limit_zero": ("GET", "?limit=0", {}, 422, "limit is '0', expected at least 1"),
    "limit_beyond": ("GET", "?limit=1001", {}, 422, "limit is '1001', expected at most 1000"),
    "limit_text": ("GET", "?limit=all", {}, 422, "limit is 'all', expected a whole number"),
    "method": ("PUT", "/known", {"json": {}}, 405, "PUT is not served at /v1/streams/known"),
}
ELSEWHERE = {
    "model_unknown": ("POST", "/v2/models/nope/infer", {"content": b"{"}, 404, "no model 'nope'; served are reference"),
    "version_unknown": ("POST", "/v2/models/reference/versions/9/infer", {}, 404, "no version '9'; served is '1'"),
    "metadata_unknown": ("GET", "/v2/models/nope", {}, 404, "there is no model 'nope'"),
    "ready_unknown": ("GET", "/v2/models/nope/ready", {}, 404, "there is no model 'nope'"),
    "statistics_unknown": ("GET", "/v2/models/nope/stats", {}, 404, "there is no model 'nope'"),
    "v1_model_unknown": ("GET", "/v1/models/nope", {}, 404, "there is no model 'nope'"),
    "model_long": ("GET", f"/v2/models/{'x' * 1500}", {}, 404, "there is no model 'xxx"),
    "model_outside": ("GET", "/v2/models/..%2F..%2Fx", {}, 404, "there is nothing at"),
    "infer_by_get": ("GET", INFER, {}, 405, f"GET is not served at {INFER}"),
    "nowhere": ("GET", "/v3", {}, 404, "there is nothing at /v3"),
    "snapshot_unknown": ("GET", f"/v1/snapshots/{'a' * 24}", {}, 404, "there is no snapshot 'aaa"),
    "snapshot_outside": ("GET", "/v1/snapshots/..%2Fx", {}, 404, "there is nothing at"),
    "snapshot_dots": ("DELETE", "/v1/snapshots/..x", {}, 404, "there is no snapshot '..x'"),
    "download_unknown": ("GET", "/v1/snapshots/nope/download", {}, 404, "there is no snapshot 'nope'"),
    "upload_nothing": ("POST", "/v1/snapshots", {"headers": OCTETS}, 422, "no snapshot"),
    "upload_junk": ("POST", "/v1/snapshots", {"content": b"\0" * 100, "headers": OCTETS}, 422, "no snapshot"),
    "upload_large": ("POST", "/v1/snapshots", {"content": LARGE, "headers": OCTETS}, 413, f"at most {MAX_BODY}"),
}
OF_A_GENERATION = [
    ("PATCH", "/v1/streams/known", {"json": {"mode": "frozen"}}),
    ("DELETE", "/v1/streams/known", {}),
    ("POST", "/v1/streams/known/reset", {}),
    ("POST", "/v1/streams/known/restore", {"json": {"snapshot": "a" * 24}}),
]


def refusals():
    for name, (settings, status, said) in BAD_INFERENCE.items():
        yield pytest.param("POST", INFER, settings, status, said, id=f"infer-{name}")
    for name, (method, path, settings, status, said) in ABOUT_STREAMS.items():
        yield pytest.param(method, f"/v1/streams{path}", settings, status, said, id=f"streams-{name}")
    for name, call in ELSEWHERE.items():
        yield pytest.param(*call, id=name)
    for method, path, settings in OF_A_GENERATION:
        name = f"{method}-{path.rpartition('/')[2]}"
        for given, status, said in (
            ("7", 412, "stream 'known' is at generation 2, not 7"),
            ("soon", 422, "If-Match is 'soon'"),
        ):
            yield pytest.param(
                method, path, settings | {"headers": {"If-Match": given}}, status, said, id=f"{name}-{given}"
            )


@pytest.mark.parametrize(("method", "path", "settings", "status", "said"), list(refusals()))
def test_a_bad_request_is_refused_by_name_and_changes_nothing(bounded, request, method, path, settings, status, said):
    before = bounded.everything()
    if "unannounced" in request.node.name:
        settings = settings | {"content": unannounced(settings["content"])}

    response = bounded(method, path, **settings)

    assert_error(response, status, said)
    assert bounded.everything() == before


BAD_SPECS = [
    pytest.param(
        {"adapter": "tnet"}, "no adapter part is named 'tnet'; there are: alpha, auto, batch,", id="unknown_part"
    ),
    pytest.param({"adapter": "none"}, "no adapter part is named 'none'; there are:", id="none_is_not_written"),
    pytest.param({"adapter": "batch+ema"}, "names two normalizers, 'batch' and 'ema'", id="two_normalizers"),
    pytest.param({"adapter": "batch+"}, "no adapter part is named ''; there are:", id="nothing_behind_the_plus"),
    pytest.param({"adapter": "x" * 300}, ", expected at most 256 characters", id="long"),
    pytest.param(
        {"options": {"tent": {"rate": 1}}}, "tent has no option 'rate'; its options are: optimizer, lr,", id="option"
    ),
    pytest.param(
        {"options": {"lame": {"k": 3}}}, "options name 'lame', which is no part of 'batch+tent'", id="no_such_part"
    ),
    pytest.param(
        {"options": {"batch": {"x": 3}}}, "batch has no option 'x'; its options are: none at all", id="no_options"
    ),
    pytest.param({"options": {"tent": {"lr": 10.5}}}, "tent: lr is 10.5, expected at most 10", id="too_high"),
    pytest.param({"options": {"tent": {"lr": -1}}}, "tent: lr is -1.0, expected at least 0", id="too_low"),
    pytest.param({"options": {"tent": {"lr": "fast"}}}, "tent: lr is 'fast', expected number", id="text"),
    pytest.param({"options": {"tent": {"lr": True}}}, "tent: lr is True, expected number", id="boolean"),
    pytest.param({"options": {"tent": {"lr": None}}}, "tent: lr is None, expected number", id="null"),
    pytest.param({"options": {"tent": {"optimizer": "lion"}}}, "'lion', expected one of adam, sgd", id="choice"),
    pytest.param({"options": {"tent": 5}}, "options of tent are 5, expected an object", id="no_object"),
    pytest.param(
        {"options": {"tent": {"lr": [1]}}},
        "options.tent.lr is [1], expected text, or",
        id="nested",
    ),
    pytest.param({"options": []}, "options is [], expected a table of names and values", id="an_array"),
    pytest.param({"options": {"seed": -1}}, "seed is -1, expected an integer from 0 to 2^63 - 1", id="seed_negative"),
    pytest.param({"options": {"seed": 2**63}}, "expected an integer from 0 to 2^63 - 1", id="seed_beyond"),
    pytest.param({"options": {"seed": {"a": 1}}}, "expected an integer from 0 to 2^63 - 1", id="seed_object"),
]


@pytest.mark.parametrize(("body", "said"), BAD_SPECS)
def test_a_wrong_adapter_or_option_is_refused_with_what_there_is(bounded, body, said):
    before = bounded.everything()

    created = bounded("POST", "/v1/streams", json={"model": "reference", **body})
    changed = bounded("PATCH", "/v1/streams/known", json=body)

    assert_error(created, 422, said)
    assert_error(changed, 422, said)
    assert bounded.everything() == before


def test_a_rate_that_is_no_number_is_refused(bounded):
    body = b'{"model": "reference", "options": {"tent": {"lr": NaN}}}'

    assert_error(bounded("POST", "/v1/streams", content=body, headers=JSON), 422, "lr is nan, expected a finite number")


def test_another_model_refuses_a_snapshot_and_the_stream_goes_on(bounded, bundles, tmp_path):
    with application(tmp_path, bundles[0]) as other:
        other.infer(images(2), "s")
        kept = other("POST", "/v1/streams/s/snapshots").json()
        file = other("GET", f"/v1/snapshots/{kept['id']}/download").content
        toml = bundles[0] / "bundle.toml"
        changed = torch_bundle(tmp_path / "changed", name="reference")
        (changed / "bundle.toml").write_text(toml.read_text().replace("[input]", "[input]\nvalue_range = [0.0, 2.0]"))
    with application(tmp_path / "more", changed) as another:
        response = another("POST", "/v1/snapshots", content=file, headers=OCTETS)

    assert_error(response, 422, "of model 'reference' in a version that is not served here")
