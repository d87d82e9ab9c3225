"""The HTTP contract, over one application in this process: what is answered, what is refused, and what that changes."""

import asyncio
import errno
import io
import json
import os
from itertools import chain

import httpx
import jsonschema_rs
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from adapters.registry import create, parts
from service.app import create_app
from service.settings import Settings
from service.snapshots.format import pack, unpack
from tests.applications import INFER, application
from tests.bundles import FACTORY, torch_bundle
from tests.serving import images, infer_body, outputs

JSON = {"Content-Type": "application/json"}
OCTETS = {"Content-Type": "application/octet-stream"}
UNTOLD = ("created", "last_used")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [torch_bundle(folder / name, name=name) for name in ("reference", "second")]


@pytest.fixture
def api(bundles, tmp_path):
    """A fresh application that serves one model."""
    with application(tmp_path, bundles[0]) as running:
        yield running


def facts(answer):
    return answer["parameters"]


def assert_error(response, status, said):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert isinstance(response.json()["error"], str)
    assert said in response.json()["error"]
    assert len(response.content) < 2000
    assert ("retry-after" in response.headers) == (status in (429, 503))


# What is refused, and that it changes nothing.


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
MAX_BODY = 300_000
LARGE = b" " * (MAX_BODY + 1)
BAD_INFERENCE = {
    "malformed_json": ({"content": b'{"inputs": [', "headers": JSON}, 400, NOT_JSON),
    "empty_body": ({}, 400, NOT_JSON),
    "nan_in_json": ({"content": b'{"inputs": [NaN]}', "headers": JSON}, 400, NOT_JSON),
    "not_utf8": ({"content": b'{"id": "\xff"}', "headers": JSON}, 400, NOT_JSON),
    "deep_json": ({"content": b"[" * 100_000, "headers": JSON}, 400, NOT_JSON),
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
    "negative_header_length": (binary(images(2), header_length=-1), 422, "inference-header-content-length"),
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
    "same_id_other_body": (
        inputs(tensor(images(2, 9)), id="used", parameters={"sequence_id": "known"}), 409,
        "request id 'used' was used for another body; expected a new id or the same body",
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
        "mod: Extra inputs are not permitted",
    ),
    "id_outside": ("POST", "", {"json": {"id": "../x"}}, 422, "body.id: String should match pattern"),
    "id_too_long": ("POST", "", {"json": {"id": "x" * 129}}, 422, "body.id: String should match pattern"),
    "id_empty": ("POST", "", {"json": {"id": ""}}, 422, "body.id: String should match pattern"),
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
    "patch_unknown_field": ("PATCH", "/known", {"json": {"generation": 0}}, 422, "generation: Extra inputs"),
    "patch_malformed": ("PATCH", "/known", {"content": b"{", "headers": JSON}, 400, "JSON"),
    "delete_unknown": ("DELETE", "/nope", {}, 404, "there is no stream 'nope'"),
    "reset_unknown": ("POST", "/nope/reset", {}, 404, "there is no stream 'nope'"),
    "snapshot_unknown": ("POST", "/nope/snapshots", {}, 404, "there is no stream 'nope'"),
    "snapshot_name": ("POST", "/known/snapshots", {"json": {"name": "../x"}}, 422, "body.name: String should match"),
    "snapshot_note": ("POST", "/known/snapshots", {"json": {"note": "x" * 5000}}, 422, "body.note: String should have"),
    "restore_unknown": ("POST", "/nope/restore", {"json": {"snapshot": "a" * 24}}, 404, "there is no stream 'nope'"),
    "restore_nothing": ("POST", "/known/restore", {"json": {}}, 422, "body.snapshot: Field required"),
    "restore_missing": ("POST", "/known/restore", {"json": {"snapshot": "a" * 24}}, 404, "there is no snapshot 'aaaa"),
    "restore_outside": ("POST", "/known/restore", {"json": {"snapshot": "../x"}}, 404, "there is no snapshot '../x'"),
    "limit_zero": ("GET", "?limit=0", {}, 422, "query.limit: Input should be greater than or equal to 1"),
    "limit_beyond": ("GET", "?limit=1001", {}, 422, "query.limit: Input should be less than or equal to 1000"),
    "limit_text": ("GET", "?limit=all", {}, 422, "query.limit"),
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


@pytest.fixture(scope="module")
def bounded(bundles, tmp_path_factory):
    """An application with low bounds, two models, and a stream in each that has learned."""
    limits = {"max_body_bytes": MAX_BODY, "max_batch": 8}
    with application(tmp_path_factory.mktemp("bounded"), *bundles, **limits) as running:
        running.infer(images(2), "known", "used")
        running.infer(images(2, 1), "known")
        running("POST", "/v1/streams/known/snapshots", json={"name": "kept"})
        body = infer_body(images(2), "elsewhere")
        assert running("POST", "/v2/models/second/infer", json=body).status_code == 200
        yield running


@pytest.mark.parametrize(("method", "path", "settings", "status", "said"), list(refusals()))
def test_a_bad_request_is_refused_by_name_and_changes_nothing(bounded, request, method, path, settings, status, said):
    before = bounded.everything()
    if "unannounced" in request.node.name:
        settings = settings | {"content": unannounced(settings["content"])}

    response = bounded(method, path, **settings)

    assert_error(response, status, said)
    assert bounded.everything() == before


BAD_SPECS = [
    pytest.param({"adapter": "tnet"}, "no adapter part is named 'tnet'; there are: alpha, batch,", id="unknown_part"),
    pytest.param({"adapter": "none"}, "no adapter part is named 'none'; there are:", id="none_is_not_written"),
    pytest.param({"adapter": "batch+ema"}, "names two normalizers, 'batch' and 'ema'", id="two_normalizers"),
    pytest.param({"adapter": "batch+"}, "no adapter part is named ''; there are:", id="nothing_behind_the_plus"),
    pytest.param({"adapter": "x" * 300}, "body.adapter: String should have at most 256", id="long"),
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
    pytest.param({"options": {"tent": {"lr": [1]}}}, "body.options.tent", id="nested"),
    pytest.param({"options": []}, "body.options: Input should be a valid dictionary", id="an_array"),
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


# Streams, sequences and retries.


def test_a_stream_not_seen_before_is_created_with_the_models_default(api):
    answer = api.infer(images(4), "camera-7")

    told = api.stream("camera-7")
    assert (told["model"], told["adapter"], told["mode"], told["options"]) == ("reference", "batch+tent", "adapt", {})
    assert (told["generation"], told["steps"], told["waiting_images"], told["adapt_batch_size"]) == (1, 1, 0, 1)
    assert told["signals"].keys() >= {"entropy", "drift", "source_agreement", "source_age"}
    assert (answer["model_name"], answer["model_version"]) == ("reference", "1")


def test_an_answer_tells_flat_facts_that_agree_with_its_outputs(api):
    api.infer(images(4, 1), "s")

    answer = api.infer(images(4, 2), "s")

    told, given = facts(answer), outputs(answer)
    assert told.keys() >= {"tta_entropy", "tta_drift", "tta_source_agreement", "tta_source_age"}
    assert "tta_warning" not in told
    expected = {
        "tta_generation": 2, "tta_answered_generation": 1, "tta_durable_generation": 0, "tta_steps": 2,
        "tta_adapter": "batch+tent", "tta_backend": "torch", "tta_mode": "adapt", "tta_action": "kept",
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert all(isinstance(value, str | int | float | bool) for value in told.values())
    assert list(given) == ["logits", "probabilities", "labels"]
    np.testing.assert_allclose(given["probabilities"].sum(1), 1, atol=1e-6)
    assert np.array_equal(given["labels"], given["probabilities"].argmax(1))
    entropy = -(given["probabilities"] * np.log(given["probabilities"])).sum(1).mean()
    assert told["tta_entropy"] == pytest.approx(entropy, abs=1e-5)


def test_outputs_come_as_asked_and_the_sources_only_on_request(api):
    body = infer_body(images(3), "s") | {"outputs": [{"name": "source_probabilities"}, {"name": "labels"}]}

    answer = api("POST", INFER, json=body).json()

    assert [(o["name"], o["datatype"], o["shape"]) for o in answer["outputs"]] == [
        ("source_probabilities", "FP32", [3, 10]),
        ("labels", "INT64", [3]),
    ]
    assert facts(answer)["tta_source_age"] == 0


@pytest.mark.parametrize("way", ["string", "integer", "header"])
def test_seven_is_one_stream_however_it_is_written(api, way):
    api.infer(images(4, 1), "7")

    again = {
        "string": lambda: api.infer(images(4, 2), "7"),
        "integer": lambda: api.infer(images(4, 2), sequence_id=7),
        "header": lambda: api.infer(images(4, 2), headers={"X-Stream-Id": "7"}),
    }[way]()

    assert facts(again)["tta_generation"] == 2
    assert api.ids() == ["7"]


def test_header_and_body_may_name_the_same_stream(api):
    answer = api.infer(images(4), "7", headers={"X-Stream-Id": "7"})

    assert facts(answer)["tta_generation"] == 1
    assert api.ids() == ["7"]


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 0}, {"sequence_id": ""}], ids=["none", "zero", "empty"])
def test_without_a_stream_id_the_shared_default_stream_answers_frozen_and_warns(api, parameters):
    api.infer(images(4, 5), "named")

    first, second = api.infer(images(4, 1), **parameters), api.infer(images(4, 2), **parameters)

    for answer in (first, second):
        told = facts(answer)
        assert (told["tta_mode"], told["tta_action"]) == ("frozen", "frozen")
        assert (told["tta_generation"], told["tta_steps"]) == (0, 0)
        assert "sequence_id" in told["tta_warning"]
        assert "'default.reference'" in told["tta_warning"]
    assert api.ids() == ["default.reference", "named"]


def test_sequence_start_begins_from_the_source_state(api):
    fresh = api.infer(images(4, 9), "fresh")
    for seed in range(3):
        api.infer(images(4, seed), "s")

    started = api.infer(images(4, 9), "s", sequence_start=True)

    assert np.array_equal(outputs(started)["logits"], outputs(fresh)["logits"])
    assert (facts(started)["tta_steps"], facts(started)["tta_generation"]) == (1, 5)
    assert facts(started)["tta_answered_generation"] == 4


def test_sequence_start_false_does_nothing_and_true_on_a_new_stream_costs_no_generation(api):
    first = api.infer(images(4), "s", sequence_start=True)
    second = api.infer(images(4, 1), "s", sequence_start=False)

    assert [facts(answer)["tta_generation"] for answer in (first, second)] == [1, 2]
    assert facts(second)["tta_steps"] == 2


def test_sequence_end_answers_and_then_releases_the_stream(api):
    api.infer(images(4, 1), "s")

    last = api.infer(images(4, 2), "s", sequence_end=True)

    assert facts(last)["tta_generation"] == 2
    assert api.ids() == []
    assert facts(api.infer(images(4, 3), "s"))["tta_generation"] == 1


def test_a_whole_sequence_may_be_one_request(api):
    answer = api.infer(images(4), "s", sequence_start=True, sequence_end=True)

    assert facts(answer)["tta_generation"] == 1
    assert api.ids() == []


def test_sequence_start_clears_what_waits_in_the_window(api):
    api.create(id="s", adapt_batch_size=8)
    api.infer(images(3), "s")

    api.infer(images(2), "s", sequence_start=True)

    told = api.stream("s")
    assert (told["waiting_images"], told["steps"], told["generation"]) == (2, 0, 1)


def test_a_full_window_is_learned_after_the_answer(api):
    api.create(id="s", adapt_batch_size=4)

    queued = [api.infer(images(2, seed), "s") for seed in range(2)]
    after = api.infer(images(1, 5), "s")

    assert [facts(answer)["tta_action"] for answer in [*queued, after]] == ["queued"] * 3
    assert [facts(answer)["tta_generation"] for answer in [*queued, after]] == [0, 0, 1]
    assert facts(after)["tta_answered_generation"] == 1
    assert api.stream("s")["waiting_images"] == 1


def test_a_request_id_is_echoed_and_made_where_none_is_given(api):
    given = api.infer(images(1), "s", "my-id")
    made = [api.infer(images(1, seed), "s")["id"] for seed in range(3)]

    assert given["id"] == "my-id"
    assert len({*made, "my-id", ""}) == 5


@pytest.mark.parametrize("form", ["json", "binary"])
def test_a_retry_gets_the_identical_answer_and_does_not_adapt_twice(api, form):
    settings = {"json": infer_body(images(4), "s", "r-1")}
    if form == "binary":
        body = infer_body(images(4), "s", "r-1", binary_data_output=True)
        settings = {"content": json.dumps(body).encode(), "headers": OCTETS}
    first = api("POST", INFER, **settings)
    api.infer(images(4, 1), "s", "r-2")

    retried = api("POST", INFER, **settings)

    assert first.status_code == retried.status_code == 200
    assert retried.content == first.content
    assert api.stream("s")["generation"] == 2


def test_a_retry_with_sequence_start_does_not_start_again(api):
    api.infer(images(4, 1), "s")
    body = infer_body(images(4, 2), "s", "r", sequence_start=True)
    first = api("POST", INFER, json=body)
    api.infer(images(4, 3), "s")

    assert api("POST", INFER, json=body).content == first.content
    assert api.stream("s")["steps"] == 2


def test_retries_sent_at_the_same_time_get_one_answer(api):
    call = ("POST", INFER, {"json": infer_body(images(4), "s", "r")})

    answers = api.together(*[call] * 6)

    assert len({answer.content for answer in answers}) == 1
    assert api.stream("s")["generation"] == 1


def test_request_ids_are_of_one_stream(api):
    one, other = api.infer(images(4), "one", "r"), api.infer(images(4, 1), "other", "r")

    assert facts(one)["tta_generation"] == facts(other)["tta_generation"] == 1


@pytest.mark.parametrize("change", ["reset", "restore"])
def test_after_a_reset_or_restore_a_retry_is_a_new_request(api, change):
    kept = api.infer(images(4), "s", "r")
    snapshot = api("POST", "/v1/streams/s/snapshots").json()["id"]
    body = {"json": {"snapshot": snapshot}} if change == "restore" else {}
    assert api("POST", f"/v1/streams/s/{change}", **body).status_code == 200

    again = api.infer(images(4, 1), "s", "r")

    assert again["id"] == kept["id"]
    assert facts(again)["tta_generation"] == 3


def test_a_long_forgotten_request_id_is_new(bundles, tmp_path):
    with application(tmp_path, bundles[0], retry_entries=2) as api:
        for number in range(3):
            api.infer(images(1, number), "s", f"r-{number}")

        again = api.infer(images(1, 0), "s", "r-0")
        retried = api.infer(images(1, 2), "s", "r-2")

    assert (facts(again)["tta_generation"], facts(retried)["tta_generation"]) == (4, 3)


# Bounds of the server.


def test_beyond_the_most_streams_a_new_one_is_refused_until_one_ends(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_streams=2) as api:
        api.create(id="a")
        api.create(id="b")
        created = api("POST", "/v1/streams", json={"id": "c"})
        inferred = api("POST", INFER, json=infer_body(images(1), "c"))
        known = api.infer(images(1), "a")
        api("DELETE", "/v1/streams/b")
        after = api.infer(images(1), "c")

    for response in (created, inferred):
        assert_error(response, 503, "there are 2 streams, as many as allowed; delete one first")
    assert facts(known)["tta_generation"] == facts(after)["tta_generation"] == 1


def test_where_inference_creates_no_streams_an_unknown_one_is_404_and_others_are_served(bundles, tmp_path):
    with application(tmp_path, bundles[0], create_streams=False) as api:
        refused = api("POST", INFER, json=infer_body(images(1), "new"))
        unnamed = api.infer(images(1))
        api.create(id="new")
        named = api.infer(images(1), "new")

    assert_error(refused, 404, "there is no stream 'new', and this server creates none by inference")
    assert facts(unnamed)["tta_mode"] == "frozen"
    assert facts(named)["tta_generation"] == 1


def test_a_stream_that_sends_too_much_at_once_is_told_to_wait(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_queue_per_stream=1) as api:
        calls = [("POST", INFER, {"json": infer_body(images(64, seed), "s")}) for seed in range(6)]
        answers = api.together(*calls)
        generation = api.stream("s")["generation"]

    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert_error(answer, 429, "1 requests of stream 's' wait, as many as allowed")
    assert generation == len(answers) - len(refused)


def test_a_full_server_is_told_by_503(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_queue=1) as api:
        for stream in "abcdef":
            api.create(id=stream)
        answers = api.together(*(("POST", INFER, {"json": infer_body(images(64), stream)}) for stream in "abcdef"))
        generations = [api.stream(stream)["generation"] for stream in "abcdef"]

    assert [answer.status_code == 200 for answer in answers] == [generation == 1 for generation in generations]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert_error(answer, 503, "1 requests wait, as many as allowed")


def test_a_turn_that_does_not_come_in_time_is_504_and_changes_nothing(bundles, tmp_path):
    with application(tmp_path, bundles[0], deadline_seconds=1e-4) as api:
        calls = [("POST", INFER, {"json": infer_body(images(64, seed), "s")}) for seed in range(6)]
        answers = api.together(*calls)
        generation = api.stream("s")["generation"]

    late = [answer for answer in answers if answer.status_code != 200]
    assert late
    for answer in late:
        assert_error(answer, 504, "nothing was changed")
    assert generation == len(answers) - len(late)


def test_a_draining_server_is_not_ready_and_refuses_what_changes_streams(api):
    api.infer(images(1), "s")
    before = api.everything()

    api.app.state.lifecycle.drain()

    assert api("GET", "/v2/health/live").json() == {"live": True}
    ready = api("GET", "/v2/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    for method, path, settings in (
        ("POST", INFER, {"json": infer_body(images(1), "s")}),
        ("PATCH", "/v1/streams/s", {"json": {"mode": "frozen"}}),
        ("POST", "/v1/streams/s/reset", {}),
        ("DELETE", "/v1/streams/s", {}),
        ("POST", "/v1/streams/s/snapshots", {}),
    ):
        assert_error(api(method, path, **settings), 503, "the server is stopping")
    assert api.everything() == before


def test_before_its_start_a_server_is_live_and_not_ready(bundles, tmp_path):
    app = create_app(Settings(bundles=bundles[:1], data=tmp_path, threads=1, allow_factories=(FACTORY,)))

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.get(f"/v2/health/{what}") for what in ("live", "ready")]

    live, ready = asyncio.run(ask())

    assert (live.status_code, ready.status_code, ready.json()) == (200, 503, {"ready": False})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=["full", "read_only"])
def test_a_full_store_is_507_and_the_state_in_memory_stays(api, monkeypatch, code):
    api.infer(images(4), "s")
    before = api.everything()

    def fail(_handle):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        response = api("POST", "/v1/streams/s/snapshots")

    assert_error(response, 507, f"the snapshot could not be kept: {os.strerror(code)}; the stream is as it was")
    assert api.everything() == before
    assert api("POST", "/v1/streams/s/snapshots").status_code == 201


# The control plane.


def pages(api, path, limit):
    """Walk a list page by page; return the ids of each page."""
    found, after = [], ""
    while True:
        page = api("GET", f"{path}?limit={limit}&after={after}").json()
        found.append([item["id"] for item in page["items"]])
        if page["next"] is None:
            return found
        after = page["next"]


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (5, [5]), (4, [4, 1]), (100, [5])])
def test_streams_are_listed_by_id_in_pages(api, limit, sizes):
    for stream in ("b", "a", "e", "c.1", "d"):
        api.create(id=stream)

    found = pages(api, "/v1/streams", limit)

    assert [len(page) for page in found] == sizes
    assert list(chain.from_iterable(found)) == ["a", "b", "c.1", "d", "e"]


def test_no_streams_are_one_empty_page(api):
    assert api("GET", "/v1/streams").json() == {"items": [], "next": None}


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (5, [5])])
def test_a_streams_snapshots_are_listed_newest_first_in_pages(api, limit, sizes):
    for stream in ("s", "other"):
        api.create(id=stream)
    taken = [api("POST", "/v1/streams/s/snapshots", json={"name": f"n{number}"}).json() for number in range(5)]
    api("POST", "/v1/streams/other/snapshots")

    found = pages(api, "/v1/streams/s/snapshots", limit)

    assert [len(page) for page in found] == sizes
    assert list(chain.from_iterable(found)) == [snapshot["id"] for snapshot in reversed(taken)]


def test_a_created_stream_is_as_asked(api):
    options = {"eta": {"lr": 0.01}, "seed": 7}
    body = {"id": "s", "adapter": "eta+unmix_tns", "options": options, "mode": "shadow", "adapt_batch_size": 16}

    created = api.create(**body)

    assert created == api.stream("s")
    expected = {
        **body,
        "adapter": "unmix_tns+eta",
        "model": "reference",
        "generation": 0,
        "steps": 0,
        "waiting_images": 0,
    }
    assert {name: created[name] for name in expected} == expected
    assert created["state_bytes"] > 0
    assert created["signals"] == {}


def test_a_stream_without_id_gets_one_and_without_model_the_only_one(api):
    ids = {api("POST", "/v1/streams", json={}).json()["id"] for _ in range(3)}

    assert len(ids) == 3
    assert sorted(ids) == api.ids()


def test_the_generation_is_the_etag_and_if_match_lets_the_right_one_through(api):
    api.infer(images(4), "s")
    etag = api("GET", "/v1/streams/s").headers["etag"]

    changed = api("POST", "/v1/streams/s/reset", headers={"If-Match": etag})
    anyway = api("POST", "/v1/streams/s/reset", headers={"If-Match": "*"})
    plain = api("PATCH", "/v1/streams/s", json={"mode": "frozen"}, headers={"If-Match": "3"})
    gone = api("DELETE", "/v1/streams/s", headers={"If-Match": '"3"'})

    assert etag == '"1"'
    assert [response.status_code for response in (changed, anyway, plain, gone)] == [200, 200, 200, 204]
    assert (changed.json()["generation"], anyway.json()["generation"]) == (2, 3)
    assert api.ids() == []


def test_a_reset_stream_answers_as_a_new_one(api):
    new = api.infer(images(4, 9), "new")
    for seed in range(3):
        api.infer(images(4, seed), "s")

    told = api("POST", "/v1/streams/s/reset").json()
    answer = api.infer(images(4, 9), "s")

    assert (told["generation"], told["steps"], told["signals"]) == (4, 0, {})
    assert np.array_equal(outputs(answer)["logits"], outputs(new)["logits"])


def test_a_change_of_mode_keeps_state_and_generation(api):
    api.infer(images(4), "s")

    frozen = api("PATCH", "/v1/streams/s", json={"mode": "frozen"}).json()
    answers = [api.infer(images(4, 1), "s") for _ in range(2)]
    api("PATCH", "/v1/streams/s", json={"mode": "adapt"})
    adapted = api.infer(images(4, 1), "s")

    assert (frozen["mode"], frozen["generation"], frozen["steps"]) == ("frozen", 1, 1)
    assert answers[0]["outputs"] == answers[1]["outputs"]
    assert facts(answers[1])["tta_generation"] == 1
    assert facts(adapted)["tta_generation"] == 2


def test_a_shadow_stream_answers_as_a_source_stream(api):
    api.create(id="source", adapter="source", mode="frozen")
    api.create(id="shadow", mode="shadow")

    answers = [[api.infer(images(4, seed), stream) for seed in range(3)] for stream in ("source", "shadow")]

    for source, shadow in zip(*answers, strict=True):
        assert source["outputs"] == shadow["outputs"]
    assert facts(shadow)["tta_steps"] == 3
    assert facts(shadow)["tta_source_age"] == 0


def test_a_new_adapter_starts_from_its_initial_state(api):
    for seed in range(2):
        api.infer(images(4, seed), "s")
    api.create(id="new", adapter="unmix_tns")

    changed = api("PATCH", "/v1/streams/s", json={"adapter": "unmix_tns"}).json()
    answers = [api.infer(images(4, 9), stream) for stream in ("s", "new")]

    assert (changed["adapter"], changed["steps"], changed["generation"]) == ("unmix_tns", 0, 3)
    assert answers[0]["outputs"] == answers[1]["outputs"]


def test_other_options_keep_what_was_learned(api):
    for stream in ("s", "twin"):
        for seed in range(2):
            api.infer(images(4, seed), stream)

    changed = api("PATCH", "/v1/streams/s", json={"options": {"tent": {"lr": 0.5}}}).json()
    answers = [api.infer(images(4, 9), stream) for stream in ("s", "twin")]
    later = [api.infer(images(4, 10), stream) for stream in ("s", "twin")]

    assert (changed["options"], changed["steps"], changed["generation"]) == ({"tent": {"lr": 0.5}}, 2, 3)
    assert answers[0]["outputs"] == answers[1]["outputs"]
    assert later[0]["outputs"] != later[1]["outputs"]


def test_options_under_which_the_state_has_another_shape_start_anew(api):
    api.infer(images(4), "s")

    changed = api("PATCH", "/v1/streams/s", json={"options": {"tent": {"optimizer": "sgd"}}}).json()

    assert (changed["steps"], changed["generation"]) == (0, 2)


def test_a_change_of_the_adaptation_batch_holds_from_the_next_request_on(api):
    api.infer(images(4), "s")

    changed = api("PATCH", "/v1/streams/s", json={"adapt_batch_size": 3}).json()
    queued = api.infer(images(2), "s")
    api("PATCH", "/v1/streams/s", json={"adapt_batch_size": 1})
    after = api.infer(images(1, 3), "s")

    assert (changed["adapt_batch_size"], changed["generation"]) == (3, 1)
    assert (facts(queued)["tta_action"], facts(queued)["tta_generation"]) == ("queued", 1)
    assert (facts(after)["tta_action"], facts(after)["tta_generation"]) == ("kept", 3)


def test_an_empty_change_changes_nothing(api):
    api.infer(images(4), "s")
    before = api.everything()

    assert api("PATCH", "/v1/streams/s", json={}).status_code == 200
    assert api("PATCH", "/v1/streams/s", json={"mode": None, "adapter": None, "options": None}).status_code == 200

    assert api.everything() == before


def test_an_ended_stream_is_gone_and_its_snapshots_stay(api):
    api.infer(images(4), "s")
    kept = api("POST", "/v1/streams/s/snapshots").json()

    ended = api("DELETE", "/v1/streams/s")

    assert (ended.status_code, ended.content) == (204, b"")
    assert_error(api("GET", "/v1/streams/s"), 404, "there is no stream 's'")
    assert api("GET", f"/v1/snapshots/{kept['id']}").json() == kept


def test_a_snapshot_is_taken_told_downloaded_restored_uploaded_and_removed(api):
    api.create(id="s", adapter="unmix_tns+tent", options={"seed": 3})
    api.infer(images(4, 1), "s")
    taken = api("POST", "/v1/streams/s/snapshots", json={"name": "kept", "note": "before"})
    expected = [api.infer(images(4, seed), "s")["outputs"] for seed in (5, 6)]

    kept = taken.json()
    file = api("GET", f"/v1/snapshots/{kept['id']}/download")
    restored = api("POST", "/v1/streams/s/restore", json={"snapshot": kept["id"]})
    again = [api.infer(images(4, seed), "s")["outputs"] for seed in (5, 6)]
    removed = api("DELETE", f"/v1/snapshots/{kept['id']}")
    missing = api("GET", f"/v1/snapshots/{kept['id']}")
    uploaded = api("POST", "/v1/snapshots", content=file.content, headers=OCTETS)

    assert taken.status_code == 201
    assert (kept["stream"], kept["name"], kept["note"], kept["generation"], kept["steps"]) == (
        "s",
        "kept",
        "before",
        1,
        1,
    )
    assert (kept["model"], kept["adapter"], kept["contains_inputs"]) == ("reference", "unmix_tns+tent", False)
    assert kept["bytes"] == len(file.content)
    assert f"{kept['id']}.safetensors" in file.headers["content-disposition"]
    told = restored.json()
    assert (restored.status_code, told["generation"], told["steps"], told["tta_warning"]) == (200, 4, 1, "")
    assert again == expected
    assert (removed.status_code, missing.status_code) == (204, 404)
    assert (uploaded.status_code, uploaded.json()) == (201, kept)


def test_taking_a_snapshot_makes_the_generation_durable_and_changes_nothing_else(api):
    api.infer(images(4), "s")
    before = api.stream("s")

    api("POST", "/v1/streams/s/snapshots")

    after = api.stream("s")
    assert (before["durable_generation"], after["durable_generation"]) == (0, 1)
    assert after | {"durable_generation": 0} == before
    assert facts(api.infer(images(4, 1), "s"))["tta_durable_generation"] == 1


def test_a_damaged_snapshot_is_refused_and_the_stream_goes_on(api):
    api.infer(images(4), "s")
    kept = api("POST", "/v1/streams/s/snapshots").json()
    file = bytearray(api("GET", f"/v1/snapshots/{kept['id']}/download").content)
    file[-1] ^= 1
    before = api.everything()

    response = api("POST", "/v1/snapshots", content=bytes(file), headers=OCTETS)

    assert_error(response, 422, "sha256 does not match")
    assert api.everything() == before


def test_an_upload_never_takes_the_place_of_another_snapshot(api):
    api.infer(images(4), "s")
    kept = api("POST", "/v1/streams/s/snapshots").json()
    file = api("GET", f"/v1/snapshots/{kept['id']}/download").content
    manifest, tensors = unpack(file)
    forged = pack(manifest.model_copy(update={"note": "another"}), tensors)

    refused = api("POST", "/v1/snapshots", content=forged, headers=OCTETS)
    again = api("POST", "/v1/snapshots", content=file, headers=OCTETS)

    assert_error(refused, 409, f"another snapshot has the id '{kept['id']}'")
    assert (again.status_code, again.json()) == (201, kept)
    assert api("GET", f"/v1/snapshots/{kept['id']}/download").content == file


def test_a_snapshot_may_leave_out_the_images_that_wait(api):
    api.create(id="s", adapt_batch_size=8)
    api.infer(images(3), "s")

    kept, dropped = (api("POST", "/v1/streams/s/snapshots", json={"inputs": what}).json() for what in ("keep", "drop"))
    waiting = [
        api("POST", "/v1/streams/s/restore", json={"snapshot": taken["id"]}).json()["waiting_images"]
        for taken in (kept, dropped)
    ]

    assert [(taken["contains_inputs"], taken["exact"]) for taken in (kept, dropped)] == [(True, True), (False, False)]
    assert waiting == [3, 0]


def test_a_restore_onto_another_spec_is_refused_and_under_other_options_warned_of(api):
    for stream, adapter, options in (
        ("s", "batch+tent", {}),
        ("eta", "batch+eta", {}),
        ("fast", "batch+tent", {"tent": {"lr": 1}}),
    ):
        api.create(id=stream, adapter=adapter, options=options)
        api.infer(images(4), stream)
    kept = {"snapshot": api("POST", "/v1/streams/s/snapshots").json()["id"]}
    before = api.stream("eta")

    refused = api("POST", "/v1/streams/eta/restore", json=kept)
    warned = api("POST", "/v1/streams/fast/restore", json=kept)

    assert_error(refused, 422, "the snapshot is of 'batch+tent', stream 'eta' runs 'batch+eta'")
    assert api.stream("eta") == before
    assert warned.status_code == 200
    assert "other options" in warned.json()["tta_warning"]


# What the server tells of itself.


def test_models_are_told_on_both_planes(bounded):
    listed = bounded("GET", "/v1/models").json()
    one = bounded("GET", "/v1/models/reference").json()
    metadata = bounded("GET", "/v2/models/reference").json()

    assert [model["name"] for model in listed["items"]] == ["reference", "second"]
    assert one == listed["items"][0]
    assert (one["backend"], one["adapter"], len(one["classes"]), len(one["fingerprint"])) == (
        "torch",
        "batch+tent",
        10,
        64,
    )
    assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 16, 16]}]
    assert [output["name"] for output in metadata["outputs"]] == [
        "logits",
        "probabilities",
        "labels",
        "source_probabilities",
    ]
    assert bounded("GET", "/v2/models/reference/versions/1").json() == metadata
    assert bounded("GET", "/v2/models/second/ready").json() == {"name": "second", "ready": True}
    assert len(bounded("GET", "/v2/models/stats").json()["model_stats"]) == 2
    assert [entry["state"] for entry in bounded("POST", "/v2/repository/index").json()] == ["READY", "READY"]


def test_the_server_tells_its_name_and_extensions(api):
    told = api("GET", "/v2").json()

    assert told["name"] == "acclimate"
    assert {"binary_tensor_data", "sequence", "sequence(string_id)", "statistics"} <= set(told["extensions"])
    assert (api("GET", "/v2/health/ready").status_code, api("GET", "/v2/health/ready").json()) == (200, {"ready": True})


def test_statistics_count_requests_images_and_failures(api):
    for seed in range(3):
        api.infer(images(4, seed), "s")
    api("POST", INFER, json=infer_body(images(1)[:, :, :8, :8], "s"))

    (told,) = api("GET", "/v2/models/reference/stats").json()["model_stats"]

    assert (told["inference_count"], told["execution_count"]) == (12, 3)
    assert told["inference_stats"]["success"]["count"] == 3
    assert told["inference_stats"]["fail"]["count"] == 1
    assert told["inference_stats"]["success"]["ns"] > 0


def listed_parts():
    return [name for kind in ("normalizer", "learner", "output") for name in parts(kind) if name != "none"]


def test_adapters_lists_every_part_with_all_that_is_to_be_known(api):
    listed = api("GET", "/v1/adapters").json()

    assert [part["name"] for part in listed["items"]] == listed_parts()
    assert listed["next"] is None
    for part in listed["items"]:
        assert part["kind"] in ("normalizer", "learner", "output")
        assert all(part[told] for told in ("summary", "remembers", "paper")), part["name"]


@pytest.mark.parametrize("name", listed_parts())
def test_the_schema_of_a_parts_options_is_valid_and_its_defaults_build_the_part(bounded, name):
    schema = next(part for part in bounded("GET", "/v1/adapters").json()["items"] if part["name"] == name)["options"]
    defaults = {option: told["default"] for option, told in schema["properties"].items()}

    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.validate(schema, defaults)
    assert not jsonschema_rs.is_valid(schema, defaults | {"stranger": 1})
    assert all(told["description"] for told in schema["properties"].values())
    assert str(create(name, **({name: defaults} if defaults else {})).spec) == str(create(name).spec)
    created = bounded("POST", "/v1/streams", json={"model": "reference", "adapter": name, "options": {name: defaults}})
    if created.status_code == 422:
        assert_error(created, 422, f"{name} needs the source artefact")
    else:
        assert created.status_code == 201, created.text
        assert bounded("DELETE", f"/v1/streams/{created.json()['id']}").status_code == 204


ALLOWED_LABELS = {"model", "adapter", "signal", "detector", "outcome", "reason", "action", "code"}


def families(api):
    response = api("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return list(text_string_to_metric_families(response.text)), response.text


def value(found, name, **labels):
    return sum(
        s.value for family in found for s in family.samples if s.name == name and labels.items() <= s.labels.items()
    )


def test_metrics_parse_are_named_by_the_contract_and_never_name_a_stream(api):
    for stream in ("a-stream-by-name", "another-one"):
        api.infer(images(4), stream)
        api("POST", f"/v1/streams/{stream}/snapshots")
        api("POST", f"/v1/streams/{stream}/reset")

    found, text = families(api)

    assert len(found) > 10
    for family in found:
        assert family.name.startswith("acclimate_")
        assert family.documentation
        for sample in family.samples:
            allowed = (
                {"version", "torch", "python"} if family.name == "acclimate_build_info" else ALLOWED_LABELS | {"le"}
            )
            assert set(sample.labels) <= allowed, sample.name
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
    assert "a-stream-by-name" not in text
    assert "another-one" not in text


def test_metrics_count_what_happened(api):
    for seed in range(3):
        api.infer(images(4, seed), "s")
    api.infer(images(2), None)
    api("POST", INFER, json=infer_body(images(1)[:, :, :8, :8], "s"))
    api("POST", "/v1/streams/s/reset")
    api("POST", "/v1/streams/s/snapshots")
    api("POST", "/v1/snapshots", content=b"junk", headers=OCTETS)

    found, _ = families(api)

    assert value(found, "acclimate_requests_total", model="reference", code="200") == 4
    assert value(found, "acclimate_requests_total", model="reference", code="422") == 1
    assert value(found, "acclimate_samples_total", model="reference") == 14
    assert value(found, "acclimate_steps_total", adapter="batch+tent", action="kept") == 3
    assert value(found, "acclimate_steps_total", action="frozen") == 1
    assert value(found, "acclimate_resets_total", reason="api") == 1
    assert value(found, "acclimate_snapshots_total", action="take", outcome="done") == 1
    assert value(found, "acclimate_snapshots_total", action="upload", outcome="refused") == 1
    assert value(found, "acclimate_request_duration_seconds_count") == 4
    assert value(found, "acclimate_queue_depth_requests") == 0
    assert value(found, "acclimate_streams_active") == 2
    states = api("GET", "/v1/streams").json()["items"]
    assert value(found, "acclimate_state_bytes") == sum(stream["state_bytes"] for stream in states)


@pytest.fixture(scope="module")
def schema(bounded):
    response = bounded("GET", "/openapi.json")
    assert response.status_code == 200
    return response.json()


def operations(schema):
    return {
        (method.upper(), path): operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }


def test_openapi_builds_with_one_id_a_summary_and_a_description_per_operation(schema):
    found = operations(schema)

    assert len(found) > 20
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    assert all(operation.get("description") for operation in found.values())


def test_every_documented_error_has_the_body_of_the_contract(schema):
    for call, operation in operations(schema).items():
        for code, response in operation["responses"].items():
            if code[0] in "45" and call != ("GET", "/v2/health/ready"):
                problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
                assert list(response["content"].values()) == [problem], (call, code)
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    assert list(schema["components"]["schemas"]["Problem"]["properties"]) == ["error"]


def documented_errors(method, path):
    """The errors that a route must document, told by its form."""
    changes = method in ("POST", "PATCH", "DELETE") and "{stream_id}" in path
    yield from (["404"] if "{" in path and (method, path) != ("GET", "/v1/streams/{stream_id}/snapshots") else [])
    yield from (["412"] if changes and not path.endswith("/snapshots") else [])
    yield from (["429", "503", "504"] if changes or path.endswith("/infer") else [])
    yield from (["400", "409", "413", "415"] if path.endswith("/infer") else [])
    yield from (["409", "503"] if (method, path) == ("POST", "/v1/streams") else [])
    yield from (["507"] if method == "POST" and path.endswith("/snapshots") else [])
    yield from (["413"] if (method, path) == ("POST", "/v1/snapshots") else [])
    yield from ["401", "403", "422"]


def test_every_route_documents_its_errors(schema):
    for (method, path), operation in operations(schema).items():
        missing = set(documented_errors(method, path)) - set(operation["responses"])
        assert not missing, (method, path)


def test_the_pages_of_the_documentation_are_served(api):
    root = api("GET", "/")

    assert root.status_code in (200, 307)
    assert api("GET", "/docs").status_code == 200
