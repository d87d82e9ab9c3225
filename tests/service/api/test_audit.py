"""Every control call says who made it, refusals are told within bounds, and no key is ever written down."""

import hashlib
import time

import pytest
from structlog.testing import capture_logs

from service.api.keys import read_keys
from service.serving import stream_cache
from service.settings import Settings
from service.storage.checkpoints import Checkpoints
from tests.applications import INFER, application
from tests.bundles import torch_bundle
from tests.serving import images, infer_body

ADMIN, READER = "admin-key-that-is-secret", "reader-key-that-is-secret"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    lines = [(ADMIN, "admin", "night-shift"), (READER, "read", "")]
    digests = [(hashlib.sha256(key.encode()).hexdigest(), scope, name) for key, scope, name in lines]
    file.write_text("\n".join(" ".join(fields) for fields in digests))
    return file


def as_(key):
    return {"headers": {"X-API-Key": key}}


def told(api, key=ADMIN):
    return [(event["kind"], event["reason"]) for event in api("GET", "/v1/events", **as_(key)).json()["items"]]


def test_every_control_call_says_who_made_it(bundle, tmp_path, keys):
    with application(tmp_path, bundle, keys_file=keys) as api:
        api("POST", "/v1/streams", json={"id": "s"}, **as_(ADMIN))
        answer = api("POST", INFER, json=infer_body(images(2), "s", "r"), **as_(ADMIN)).json()
        label = answer["outputs"][2]["data"]
        taken = api("POST", "/v1/streams/s/snapshots", **as_(ADMIN)).json()["id"]
        file = api("GET", f"/v1/snapshots/{taken}/download", **as_(ADMIN)).content
        api("PATCH", "/v1/streams/s", json={"mode": "frozen"}, **as_(ADMIN))
        api("POST", "/v1/streams/s/feedback", json={"items": [{"request": "r", "labels": label}]}, **as_(ADMIN))
        api("POST", "/v1/streams/s/restore", json={"snapshot": taken}, **as_(ADMIN))
        api("POST", "/v1/streams/s/reset", **as_(ADMIN))
        api("DELETE", f"/v1/snapshots/{taken}", **as_(ADMIN))
        octets = {"X-API-Key": ADMIN, "Content-Type": "application/octet-stream"}
        api("POST", "/v1/snapshots", content=file, headers=octets)
        api("DELETE", "/v1/streams/s", **as_(ADMIN))
        found = told(api)

    assert [kind for kind, _ in found] == [
        "created", "snapshot", "changed", "labels", "restored", "reset", "snapshot_deleted", "uploaded", "deleted",
    ]  # fmt: skip
    assert all(reason.endswith(", by key night-shift") for _, reason in found)


def test_without_keys_the_address_is_told(bundle, tmp_path):
    with application(tmp_path, bundle) as api:
        api.create(id="s")
        assert told(api)[0][1].endswith(", by 127.0.0.1")


def test_what_the_server_does_by_itself_names_nobody(bundle, tmp_path, keys):
    with application(tmp_path, bundle, keys_file=keys, end_after_days=1e-6, rest_after_seconds=0.01) as api:
        api("POST", "/v1/streams", json={"id": "s"}, **as_(ADMIN))
        until = time.monotonic() + 30
        while api.app.state.services.residence.table.knows("s") and time.monotonic() < until:
            api("GET", "/v2/health/live")
            api._runner.run(api.app.state.services.residence.make_room())
            api._runner.run(api.app.state.services.residence.end_unused())
        assert told(api)[-1] == ("ended", "unused for as long as is allowed")


def test_a_stream_whose_creation_takes_long_is_not_ended_before_it_is_there(bundle, tmp_path, keys, monkeypatch):
    enrol, calls = Checkpoints.enrol, []

    def slowly(*arguments):
        calls.append(arguments)
        claim = enrol(*arguments)
        time.sleep(0.5 if len(calls) == 1 else 0)
        return claim

    monkeypatch.setattr(Checkpoints, "enrol", slowly)
    monkeypatch.setattr(stream_cache, "LOOK_SECONDS", 0.01)
    with application(tmp_path, bundle, keys_file=keys, end_after_days=1e-6, rest_after_seconds=0.01) as api:
        assert api("POST", "/v1/streams", json={"id": "s"}, **as_(ADMIN)).status_code == 201
        assert told(api)[0] == ("created", "with batch+tent, by key night-shift")


def test_refusals_are_told_and_a_flood_of_them_is_not(bundle, tmp_path, keys):
    with application(tmp_path, bundle, keys_file=keys) as api:
        for _ in range(100):
            assert api("DELETE", "/v1/streams/s", **as_("guess")).status_code == 401
        assert api("POST", "/v1/session", json={"key": "guess"}).status_code == 401
        found = told(api)

    assert {kind for kind, _ in found} == {"refused"}
    assert 10 <= len(found) <= 15
    assert found[0][1] == "DELETE /v1/streams/s by 127.0.0.1: 401"


def test_a_key_without_the_scope_is_told_too(bundle, tmp_path, keys):
    with application(tmp_path, bundle, keys_file=keys) as api:
        assert api("POST", "/v1/streams", json={"id": "s"}, **as_(READER)).status_code == 403
        assert told(api) == [("refused", "POST /v1/streams by 127.0.0.1: 403")]


def test_keys_are_never_written_down(bundle, tmp_path, keys):
    with capture_logs() as logs, application(tmp_path, bundle, keys_file=keys) as api:
        for key in (ADMIN, READER, "wrong-key-that-is-secret"):
            for method, path in (("POST", "/v1/streams"), ("GET", "/v1/streams"), ("POST", "/v1/streams/x/reset")):
                answer = api(method, path, json={"id": "s"} if method == "POST" else None, **as_(key))
                assert "secret" not in answer.text
        api("POST", "/v1/session", json={"key": "wrong-key-that-is-secret"})
        events = str(told(api))
    stored = (tmp_path / "data" / "acclimate.db").read_bytes()

    assert "secret" not in str(logs) + events
    assert b"secret" not in stored
    assert "secret" not in repr(Settings(keys_file=keys)) + repr(read_keys(keys))


def test_a_key_without_a_name_is_known_by_its_digest(keys):
    digest = hashlib.sha256(READER.encode()).hexdigest()

    assert read_keys(keys).name(digest) == f"key {digest[:8]}"
