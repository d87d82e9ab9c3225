"""Bodies that are damaged byte by byte: each is answered by the contract, and none costs memory."""

import gc
import json
import resource

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.applications import INFER, OCTETS, application
from tests.bundles import torch_bundle
from tests.serving import images, infer_body

LENGTH = "Inference-Header-Content-Length"
BYTES = 50 * 2**20
"""That the process may grow by, of whatever allocator."""
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with application(folder, torch_bundle(folder / "reference"), max_body_bytes=200_000) as running:
        running.create(id="s")
        yield running


def binary_body():
    x = images(2).astype("<f4")
    raw = x.tobytes()
    tensor = {
        "name": "input", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    header = json.dumps({"inputs": [tensor], "parameters": {"sequence_id": "s", "binary_data_output": True}}).encode()
    return header + raw, len(header)


def damaged(content, edits):
    content = bytearray(content)
    for kind, where, by in edits:
        at = int(where * max(len(content) - 1, 0))
        if kind == "flip" and content:
            content[at] ^= by[0] or 1
        elif kind == "cut":
            del content[at : at + 64 * len(by)]
        elif kind == "insert":
            content[at:at] = by
        else:
            content[at:at] = content[at : at + 16]
    return bytes(content)


def check(response):
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert list(response.json()) == ["error"]
        assert isinstance(response.json()["error"], str)
        assert len(response.content) < 2000


def fuzz(api, examples, number=0):
    """Send damaged bodies; what the generator of examples remembers of them is freed in the end."""
    binary, length = binary_body()
    text = json.dumps(infer_body(images(1), "s")).encode()
    snapshot = api("GET", f"/v1/snapshots/{api('POST', '/v1/streams/s/snapshots').json()['id']}/download").content

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(edits=EDITS, claimed=st.integers(-2, 2) | st.sampled_from([0, 10**9, -1]))
    def send(edits, claimed):
        headers = {**OCTETS, LENGTH: str(length + claimed)}
        check(api("POST", INFER, content=damaged(binary, edits), headers=headers))
        check(api("POST", INFER, content=damaged(text, edits), headers={"Content-Type": "application/json"}))
        check(api("POST", "/v1/snapshots", content=damaged(snapshot, edits), headers=OCTETS))

    send()


def peak():
    gc.collect()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_damaged_bodies_are_answered_by_the_contract_and_cost_no_memory(api):
    fuzz(api, 50)
    before = peak()

    fuzz(api, 200)

    assert peak() - before < BYTES
    assert api.infer(images(2), "afterwards")["parameters"]["tta_generation"] == 1


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_damaged_bodies_are_answered_by_the_contract_and_cost_no_memory_at_length(api):
    fuzz(api, 500)
    before = peak()

    for number in range(1, 41):
        fuzz(api, 500, number)

    assert peak() - before < BYTES
