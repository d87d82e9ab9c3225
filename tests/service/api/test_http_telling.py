"""What the server tells of itself: parts, models, metrics, OpenAPI."""

import json

import jsonschema_rs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.registry import create, parts
from tests.applications import INFER, OCTETS, assert_error
from tests.serving import images, infer_body


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
    return [name for kind in ("normalizer", "learner", "output", "selector") for name in parts(kind) if name != "none"]


def test_adapters_lists_every_part_with_all_that_is_to_be_known(api):
    listed = api("GET", "/v1/adapters").json()

    assert [part["name"] for part in listed["items"]] == listed_parts()
    assert listed["next"] is None
    for part in listed["items"]:
        assert part["kind"] in ("normalizer", "learner", "output", "selector")
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


ALLOWED_LABELS = {"model", "adapter", "signal", "detector", "outcome", "reason", "action", "code", "task"}


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


JOBS = 4
"""That run beside the requests: probing, keeping, resting, cleaning."""


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
    assert value(found, "acclimate_tasks_active") >= JOBS
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
    undescribed = [name for name, operation in found.items() if not operation.get("description")]
    assert not undescribed, f"write a docstring for the function of the route {undescribed}, in service/api/routes"


def test_inference_tells_its_parameters_though_it_reads_them_by_itself(schema):
    headers = dict.fromkeys(("X-Stream-Id", "Inference-Header-Content-Length", "Idempotency-Key"), "header")
    for path, in_path in (("", {"model": "path"}), ("/versions/{version}", {"model": "path", "version": "path"})):
        told = schema["paths"][f"/v2/models/{{model}}{path}/infer"]["post"]["parameters"]
        assert {parameter["name"]: parameter["in"] for parameter in told} == in_path | headers


def test_no_parameter_may_be_null_and_nothing_with_a_default_is_required(schema):
    for call, operation in operations(schema).items():
        for parameter in operation.get("parameters", ()):
            assert "null" not in json.dumps(parameter), (call, parameter["name"])
    for name, model in schema["components"]["schemas"].items():
        with_default = {key for key, field in model.get("properties", {}).items() if "default" in field}
        assert with_default.isdisjoint(model.get("required", ())), name


def test_every_answer_has_a_schema_but_streams_of_events(schema):
    for call, operation in operations(schema).items():
        answers = [response for code, response in operation["responses"].items() if code[0] == "2" and code != "204"]
        assert call[1] == "/v1/session" or operation["responses"].get("204") or answers
        for answer in answers:
            for media_type, content in answer["content"].items():
                assert media_type == "text/event-stream" or content["schema"], call


def test_inference_takes_and_answers_named_schemas(schema):
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        operation = schema["paths"][path]["post"]
        taken = operation["requestBody"]["content"]
        answered = operation["responses"]["200"]["content"]
        assert taken["application/json"]["schema"] == {"$ref": "#/components/schemas/InferRequest"}
        assert taken["application/octet-stream"]["schema"] == {"type": "string", "format": "binary"}
        assert answered["application/json"]["schema"] == {"$ref": "#/components/schemas/InferResponse"}
        assert list(answered) == ["application/json", "application/octet-stream"]
        assert answered["application/octet-stream"]["schema"] == {"type": "string", "format": "binary"}


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
    yield from (["412"] if changes and not path.endswith(("/snapshots", "/feedback")) else [])
    yield from (["429", "503", "504"] if changes or path.endswith("/infer") else [])
    yield from (["400", "409", "413", "415"] if path.endswith("/infer") else [])
    yield from (["409", "503"] if (method, path) == ("POST", "/v1/streams") else [])
    yield from (["507"] if method == "POST" and path.endswith("/snapshots") else [])
    yield from (["413"] if (method, path) == ("POST", "/v1/snapshots") else [])
    yield from ["401", "403", "422"]


def test_every_route_with_a_body_documents_that_it_may_be_malformed_too_large_or_wrongly_compressed(schema):
    bodies = {name: operation for name, operation in operations(schema).items() if "requestBody" in operation}

    assert len(bodies) >= 8
    for name, operation in bodies.items():
        missing = {"400", "413", "415"} - operation["responses"].keys()
        assert not missing, f"{name}: add {sorted(missing)} to its responses(...) in service/api/routes"


def test_every_route_documents_its_errors(schema):
    for (method, path), operation in operations(schema).items():
        missing = set(documented_errors(method, path)) - set(operation["responses"])
        assert not missing, (method, path)


def test_the_pages_of_the_documentation_are_served(api):
    root = api("GET", "/")

    assert root.status_code in (200, 307)
    assert api("GET", "/docs").status_code == 200


def test_metrics_show_every_signal_as_a_distribution_over_streams(api):
    for number in range(5):
        api.infer(images(4, number), f"s{number}")

    found, text = families(api)
    spread = {
        name: value(found, f"acclimate_stream_signal_{name}", signal="entropy")
        for name in ("min", "p10", "p50", "p90", "max")
    }

    assert sorted(spread.values()) == list(spread.values())
    assert spread["min"] < spread["max"]
    signals = {s.labels["signal"] for f in found for s in f.samples if s.name == "acclimate_stream_signal_p50"}
    assert {"entropy", "drift", "agreement", "confidence", "step_seconds", "contradiction"} <= signals
    assert value(found, "acclimate_streams_suspected", reason="contradiction") == 0
    assert text.count("acclimate_stream_signal_") < 1000  # whatever the number of streams
