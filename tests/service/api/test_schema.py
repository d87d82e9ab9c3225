"""schemathesis reads the server's OpenAPI and calls every operation: no 5xx, every answer as documented."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.bundles import torch_bundle
from tests.serving import images, infer_body, serving, wait_ready

pytestmark = pytest.mark.e2e
CALM = list(HealthCheck)
SEEN = set()
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    with serving(folder, "--bundle", str(torch_bundle(folder / "bundle"))) as running:
        wait_ready(running)
        with running.client() as client:
            client.post("/v2/models/reference/infer", json=infer_body(images(4), "known"))
            client.post("/v1/streams/known/snapshots")
        yield running


def call(case):
    response = case.call()
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400:
        assert list(response.json()) == ["error"]
        assert isinstance(response.json()["error"], str)


def describe(failure):
    inner = failure.exceptions if isinstance(failure, BaseExceptionGroup) else [failure]
    return "; ".join(str(error)[:600] for error in inner)


def call_every_operation(server, examples):
    """Call each operation with made requests, good and bad; return how many operations there are."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    bounds = settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=CALM)
    failures = []
    operations = [result.ok() for result in schema.get_all_operations()]
    operations = [operation for operation in operations if not operation.path.endswith("/live")]  # these never end
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)

            @given(strategy)
            @bounds
            def every_case(case):
                call(case)

            try:
                every_case()
            except Unsatisfiable:  # an operation without inputs has no bad ones
                continue
            except (Exception, BaseExceptionGroup) as failure:  # noqa: BLE001 - all are shown at the end
                failures.append(f"{operation.label} ({mode.value}): {describe(failure)}")
    assert not failures, "\n".join(failures)
    return len(operations)


def test_every_operation_answers_as_documented_and_never_5xx(server):
    assert call_every_operation(server, examples=20) > 20


def follow_links(server, examples, steps):
    """Call operations one after the other, with what earlier ones answered: create, infer, snapshot, restore, end."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json").exclude(path_regex="/live$")

    class Machine(schema.as_state_machine()):
        def setup(self):
            """Begin each run alike: without streams and snapshots."""
            with server.client() as client:
                for stream in client.get("/v1/streams?limit=1000").json()["items"]:
                    for snapshot in client.get(f"/v1/streams/{stream['id']}/snapshots").json()["items"]:
                        client.delete(f"/v1/snapshots/{snapshot['id']}")
                    client.delete(f"/v1/streams/{stream['id']}")

        def validate_response(self, response, case, **_settings):
            case.validate_response(response, checks=CHECKS)
            SEEN.add((case.method, case.operation.path, response.status_code < 400))

    bounds = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
        suppress_health_check=CALM,
    )  # fmt: skip
    Machine.run(settings=bounds)


def test_operations_that_follow_from_each_other_answer_as_documented(server):
    follow_links(server, examples=80, steps=20)

    assert len({(method, path) for method, path, _ in SEEN}) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_operations_that_follow_from_each_other_answer_as_documented_at_length(server):
    follow_links(server, examples=300, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_operation_answers_as_documented_and_never_5xx_at_length(server):
    assert call_every_operation(server, examples=400) > 20


def test_the_server_is_as_well_as_before(server):
    with server.client() as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        answer = client.post("/v2/models/reference/infer", json=infer_body(images(4), "afterwards"))
        assert answer.status_code == 200
    assert isinstance(httpx.get(f"{server.url}/metrics").text, str)
    assert "unexpected_error" not in server.log.read_text()
    assert "job_failed" not in server.log.read_text()
