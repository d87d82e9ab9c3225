"""What Triton's clients ask for beside inference: configuration, statistics, time limits, and extensions not served."""

import json

import pytest

from service.api.routes.health import EXTENSIONS
from tests.applications import INFER, application, assert_error, facts
from tests.serving import images, infer_body

MODEL = "/v2/models/reference"


@pytest.fixture(scope="module")
def api(bundles, tmp_path_factory):
    """An application that these tests share: each has streams of its own."""
    with application(tmp_path_factory.mktemp("triton"), bundles[0]) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_streams(api):
    """End every stream before each test."""
    for stream in api.ids():
        assert api("DELETE", f"/v1/streams/{stream}").status_code == 204


@pytest.mark.parametrize("path", [f"{MODEL}/config", f"{MODEL}/versions/1/config"])
def test_the_model_configuration_has_tritons_shape(api, path):
    config = api("GET", path).json()

    assert (config["name"], config["platform"], config["backend"]) == ("reference", "pytorch_module", "acclimate")
    assert config["max_batch_size"] == 256
    assert config["input"] == [{"name": "images", "data_type": "TYPE_FP32", "dims": [3, 16, 16]}]
    assert config["output"] == [
        {"name": "logits", "data_type": "TYPE_FP32", "dims": [10]},
        {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]},
        {"name": "labels", "data_type": "TYPE_INT64", "dims": [1], "reshape": {"shape": []}},
        {"name": "source_probabilities", "data_type": "TYPE_FP32", "dims": [10]},
    ]
    controls = [control["control"][0]["kind"] for control in config["sequence_batching"]["control_input"]]
    assert controls == ["CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_CORRID"]
    assert config["version_policy"] == {"specific": {"versions": ["1"]}}


def test_the_largest_batch_of_the_configuration_is_the_one_that_is_served(bundles, tmp_path):
    with application(tmp_path, bundles[0], max_batch=3) as api:
        largest = api("GET", f"{MODEL}/config").json()["max_batch_size"]

        assert api("POST", INFER, json=infer_body(images(largest))).status_code == 200
        assert api("POST", INFER, json=infer_body(images(largest + 1))).status_code == 413


def test_statistics_of_a_version_are_those_of_the_model(api):
    before = api("GET", f"{MODEL}/stats").json()["model_stats"][0]["inference_count"]
    api.infer(images(3), "s")

    versioned = api("GET", f"{MODEL}/versions/1/stats").json()

    assert versioned == api("GET", f"{MODEL}/stats").json()
    assert versioned["model_stats"][0]["inference_count"] == before + 3
    assert_error(api("GET", f"{MODEL}/versions/9/stats"), 404, "no version '9'")
    assert_error(api("GET", f"{MODEL}/versions/9/config"), 404, "no version '9'")


def test_the_servers_metadata_is_there_with_a_slash_too_and_names_what_is_served(api):
    told = api("GET", "/v2")

    assert api("GET", "/v2/").json() == told.json()
    assert told.json()["extensions"] == EXTENSIONS
    assert EXTENSIONS == [
        "binary_tensor_data", "model_configuration", "sequence", "sequence(string_id)", "statistics",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/metrics"])
def test_health_and_metrics_answer_head_as_get(api, path):
    head, get = api("HEAD", path), api("GET", path)

    assert (head.status_code, head.headers["content-type"]) == (200, get.headers["content-type"])


def test_a_request_that_waits_longer_than_its_timeout_is_refused_and_changes_nothing(api):
    slow = infer_body(images(64), "s")
    calls = [("POST", INFER, {"json": slow})] * 4 + [("POST", INFER, {"json": infer_body(images(1), "s", timeout=1)})]

    answers = api.together(*calls)

    assert [answer.status_code for answer in answers] == [200] * 4 + [504]
    assert_error(answers[-1], 504, "no turn within the request's timeout; nothing was changed")
    assert api.stream("s")["generation"] == 4


@pytest.mark.parametrize("given", [0, 60_000_000, 10**18])
def test_a_timeout_that_is_long_enough_or_none_changes_nothing(api, given):
    assert facts(api.infer(images(1), "s", timeout=given))["tta_generation"] == 1


def test_a_timeout_does_not_lengthen_the_servers_deadline(bundles, tmp_path):
    with application(tmp_path, bundles[0], deadline_seconds=1e-6) as api:
        calls = [("POST", INFER, {"json": infer_body(images(64), "s", timeout=10**9)})] * 3

        assert 504 in [answer.status_code for answer in api.together(*calls)]


@pytest.mark.parametrize("given", [-1, 1.5, "soon", True])
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(api, given):
    refused = api("POST", INFER, json=infer_body(images(1), "s", timeout=given))

    assert_error(refused, 422, f"timeout is {given!r}, expected a whole number of microseconds, 0 for none")


@pytest.mark.parametrize("given", [1, -1, "high"])
def test_a_priority_is_refused_by_name(api, given):
    refused = api("POST", INFER, json=infer_body(images(1), "s", priority=given))

    assert_error(refused, 422, f"priority is {given!r}; priorities are not served")
    assert api.ids() == []


def test_the_default_priority_is_taken(api):
    assert api("POST", INFER, json=infer_body(images(1), "s", priority=0)).status_code == 200


@pytest.mark.parametrize(
    ("where", "parameters", "named"),
    [
        ("inputs", {"shared_memory_region": "r", "shared_memory_byte_size": 3072}, "shared_memory"),
        ("inputs", {"shared_memory_offset": 8, "binary_data_size": 3072}, "shared_memory_offset"),
        ("outputs", {"shared_memory_region": "r", "shared_memory_byte_size": 40}, "shared_memory"),
        ("outputs", {"classification": 3}, "classification"),
    ],
)
def test_an_extension_in_a_request_is_refused_by_name(api, where, parameters, named):
    body = {**infer_body(images(1), "s"), "outputs": [{"name": "logits"}]}
    body[where][0]["parameters"] = parameters
    if where == "inputs":
        del body["inputs"][0]["data"]

    refused = api("POST", INFER, content=json.dumps(body), headers={"Content-Type": "application/json"})

    assert_error(refused, 422, f"{named}")
    assert "is not served" in refused.json()["error"]
    assert api.ids() == []


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", "/v2/systemsharedmemory/status", "shared memory"),
        ("POST", "/v2/systemsharedmemory/region/r/register", "shared memory"),
        ("POST", "/v2/systemsharedmemory/unregister", "shared memory"),
        ("GET", "/v2/cudasharedmemory/status", "shared memory"),
        ("POST", "/v2/cudasharedmemory/region/r/register", "shared memory"),
        ("GET", "/v2/trace/setting", "trace"),
        ("POST", f"{MODEL}/trace/setting", "trace"),
        ("GET", "/v2/logging", "logging"),
        ("POST", "/v2/logging", "logging"),
        ("POST", "/v2/repository/models/reference/load", "loading"),
        ("POST", "/v2/repository/models/reference/unload", "loading"),
        ("POST", f"{MODEL}/generate", "generate"),
        ("POST", f"{MODEL}/versions/1/generate_stream", "generate"),
    ],
)
def test_an_extension_that_is_not_served_is_refused_by_name(api, method, path, named):
    assert_error(api(method, path, json={} if method == "POST" else None), 404, f"{named} is not served")


def test_a_form_sent_to_shared_memory_is_refused_by_that_name(api):
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    assert_error(api("POST", "/v2/systemsharedmemory/unregister", headers=form), 404, "shared memory is not served")
    assert api("POST", "/v2/logging", headers=form).status_code == 415


def test_all_parts_of_a_models_time_are_counted_as_often(api):
    api.infer(images(2), "s")
    parts = api("GET", f"{MODEL}/stats").json()["model_stats"][0]["inference_stats"]

    counts = {parts[f"compute_{part}"]["count"] for part in ("input", "infer", "output")}
    assert counts == {parts["success"]["count"]}


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN or infinite"), (3e30, "holds values from")])
def test_random_bits_are_refused_with_the_flag_for_perf_analyzer(api, value, said):
    x = images(1)
    x[0, 0, 0, 0] = value
    body = infer_body(x[:0], "s")
    body["inputs"][0] |= {"shape": [1, 3, 16, 16], "parameters": {"binary_data_size": x.nbytes}}
    del body["inputs"][0]["data"]
    header = json.dumps(body).encode()

    headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    refused = api("POST", INFER, content=header + x.tobytes(), headers=headers)

    assert_error(refused, 422, said)
    assert "perf_analyzer: --input-data zero" in refused.json()["error"]
