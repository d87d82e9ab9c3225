"""Where the server listens, and whom it answers."""

import hashlib

import pytest

from tests.bundles import torch_bundle
from tests.serving import images, infer_body, serving, wait_ready

pytestmark = pytest.mark.e2e


def refused(folder, *arguments, environment=None):
    """Start a server that must refuse; return what it wrote on standard error."""
    with (
        pytest.raises(AssertionError, match="did not start") as caught,
        serving(folder, *arguments, environment=environment),
    ):
        pass
    return str(caught.value)


def test_beyond_loopback_without_keys_the_start_is_refused(tmp_path):
    said = refused(tmp_path, "--host", "0.0.0.0")

    assert "refusing to listen on 0.0.0.0 without keys" in said
    assert "--insecure" in said
    assert "Traceback" not in said


def test_several_worker_processes_are_refused(tmp_path):
    assert "WEB_CONCURRENCY" in refused(tmp_path, environment={"WEB_CONCURRENCY": "2"})


def test_a_foreign_factory_is_refused(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle", factory="os:system")

    assert "names the factory 'os:system', which is not allowed" in refused(tmp_path, "--bundle", str(bundle))


def test_keys_open_what_their_scope_says(tmp_path):
    lines = [f"{hashlib.sha256(key.encode()).hexdigest()} {scope} {key}" for key, scope in
             (("k-infer", "infer"), ("k-read", "read"), ("k-admin", "admin"))]  # fmt: skip
    keys = tmp_path / "keys"
    keys.write_text("# who may call\n" + "\n".join(lines) + "\n")
    bundle = torch_bundle(tmp_path / "bundle")
    calls = {
        "health": ("GET", "/v2/health/ready", None),
        "infer": ("POST", "/v2/models/reference/infer", infer_body(images(1), "s")),
        "read": ("GET", "/v1/streams", None),
        "metrics": ("GET", "/metrics", None),
        "admin": ("POST", "/v1/streams", {}),
    }
    with serving(tmp_path, "--bundle", str(bundle), "--keys-file", str(keys)) as server:
        wait_ready(server)
        seen = {}
        for key in (None, "wrong", "k-infer", "k-read", "k-admin"):
            with server.client(headers={"X-API-Key": key} if key else {}) as client:
                seen[key] = {
                    name: client.request(m, path, json=body).status_code for name, (m, path, body) in calls.items()
                }
        with server.client(headers={"Authorization": "Bearer k-read"}) as client:
            bearer = client.get("/v1/models").status_code

    closed = {"infer": 401, "read": 401, "metrics": 401, "admin": 401}
    assert seen[None] == seen["wrong"] == {"health": 200, **closed}
    assert seen["k-infer"] == {"health": 200, "infer": 200, "read": 403, "metrics": 403, "admin": 403}
    assert seen["k-read"] == {"health": 200, "infer": 403, "read": 200, "metrics": 200, "admin": 403}
    assert seen["k-admin"] == {"health": 200, "infer": 200, "read": 200, "metrics": 200, "admin": 201}
    assert bearer == 200
