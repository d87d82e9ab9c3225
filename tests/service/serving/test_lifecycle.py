"""What a stream's life must survive: restarts, failures in the middle, endings while others wait, a full server."""

import json
import math

import numpy as np
import pytest

from service.api.keys import read_keys
from service.errors import BundleError, SettingsError, UnfitError
from service.models.bundle import read_bundle
from service.storage.snapshots.format import pack, unpack
from tests.applications import INFER, OCTETS, application
from tests.bundles import torch_bundle, tripwire_bundle
from tests.serving import images, infer_body

TRIP = "/v2/models/tripwire/infer"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return torch_bundle(tmp_path_factory.mktemp("bundles") / "reference")


@pytest.fixture
def api(reference, tmp_path):
    with application(tmp_path, reference) as running:
        yield running


def poisoned():
    x = images(4, seed=5)
    x[1, 0, 0, 0] = 1.0
    return x


def test_a_snapshot_taken_before_a_stop_does_not_hide_the_stream_from_the_next_start(reference, tmp_path):
    generations = []
    for _ in range(3):
        with application(tmp_path, reference) as api:
            api.infer(images(3), "s")
            api("POST", "/v1/streams/s/snapshots")
            generations.append(api.stream("s")["generation"])

    assert generations == [1, 2, 3]


def test_settings_without_a_new_generation_survive_a_restart(reference, tmp_path):
    with application(tmp_path, reference) as api:
        api.infer(images(3), "s")
    with application(tmp_path, reference) as api:
        changes = {"mode": "frozen", "adapt_batch_size": 9, "guard": {"harm": "off", "every": 1000}}
        api("PATCH", "/v1/streams/s", json=changes)
        api.create(id="unused")
    with application(tmp_path, reference) as api:
        stream = api.stream("s")
        assert (stream["mode"], stream["adapt_batch_size"], stream["generation"]) == ("frozen", 9, 1)
        assert (stream["guard"]["harm"], stream["guard"]["every"], stream["guard"]["collapse"]) == (
            "off",
            1000,
            "roll_back",
        )
        assert api.ids() == ["s", "unused"]


def test_an_ended_sequence_stays_ended_after_a_restart(reference, tmp_path):
    with application(tmp_path, reference) as api:
        api.infer(images(3), "s")
    with application(tmp_path, reference) as api:
        api.infer(images(3), "s", sequence_end=True)
    with application(tmp_path, reference) as api:
        assert api.ids() == []


@pytest.mark.parametrize("body", [{"sequence_start": True}, {}], ids=["start", "after_a_window"])
def test_a_failing_request_puts_back_the_reset_and_the_window_step_that_came_before_it(tmp_path, body):
    with application(tmp_path, tripwire_bundle(tmp_path / "b"), allow_factories=("tests.models:Tripwire",)) as api:
        api("POST", "/v1/streams", json={"id": "s", "adapt_batch_size": 4})
        api("POST", TRIP, json=infer_body(images(4), "s"))
        first = api("POST", TRIP, json=infer_body(images(3, seed=2), "s", "kept")).json()
        before = api.stream("s")

        failed = api("POST", TRIP, json=infer_body(poisoned(), "s", **body))
        again = api("POST", TRIP, json=infer_body(images(3, seed=2), "s", "kept")).json()

        assert failed.status_code == 500
        assert api.stream("s") == before
        assert (before["generation"], before["waiting_images"]) == (1, 3)
        assert again == first


def test_the_shared_stream_is_frozen_however_it_is_named_and_no_anonymous_request_ends_it(api):
    named = api.infer(images(2), "default.reference")["parameters"]
    api.infer(images(2), sequence_end=True)
    api.infer(images(2), sequence_start=True)

    assert (named["tta_mode"], named["tta_generation"]) == ("frozen", 0)
    assert api.ids() == ["default.reference"]


def test_a_request_that_waited_while_its_stream_ended_begins_it_anew(api):
    calls = [("POST", INFER, {"json": infer_body(images(2, seed), "s", sequence_end=seed == 0)}) for seed in range(4)]

    answers = api.together(*calls)

    assert [answer.status_code for answer in answers] == [200] * 4
    assert sorted(answer.json()["parameters"]["tta_generation"] for answer in answers) == [1, 1, 2, 3]


def test_zero_as_a_number_and_as_a_text_is_no_stream(api):
    for none in (0, "0", ""):
        assert "tta_warning" in api.infer(images(1), none)["parameters"]
    assert "tta_warning" in api.infer(images(1), headers={"X-Stream-Id": "0"})["parameters"]


def test_a_stopping_server_makes_no_streams(api):
    api.app.state.services.lifecycle.drain()

    refused = [api("POST", INFER, json=infer_body(images(1), "new")), api("POST", "/v1/streams", json={"id": "made"})]

    assert [response.status_code for response in refused] == [503, 503]
    assert api.ids() == []


def test_the_bound_on_bodies_holds_for_control_calls_too(reference, tmp_path):
    with application(tmp_path, reference, max_body_bytes=2048) as api:
        api.create(id="s")
        note = json.dumps({"note": "x" * 4000}).encode()
        response = api("POST", "/v1/streams/s/snapshots", content=note, headers={"Content-Type": "application/json"})

    assert response.status_code == 413
    assert "2048" in response.json()["error"]


REFUSED = [
    pytest.param(
        "POST", "/v1/streams", {"options": {"spec": {}}}, 422, "'spec', which is no part", id="spec as option"
    ),
    pytest.param("POST", "/v1/streams", {"options": {"tent": {"lr": 10**400}}}, 422, "expected", id="huge lr"),
    pytest.param("POST", "/v1/streams", {"options": {"seed": True}}, 422, "seed", id="boolean seed"),
    pytest.param("POST", "/v1/streams", {"adapter": ""}, 422, "adapter", id="empty adapter"),
    pytest.param("POST", "/v1/streams", {"model": ""}, 404, "there is no model", id="empty model"),
    pytest.param("PATCH", "/v1/streams/nope", {"nonsense": 1}, 404, "there is no stream 'nope'", id="path wins"),
    pytest.param("GET", f"/v1/streams/{'x' * 300}", None, 404, "there is no stream", id="long stream id"),
    pytest.param("GET", f"/v1/snapshots/{'x' * 300}", None, 404, "there is no snapshot", id="long snapshot id"),
    pytest.param("POST", INFER, infer_body(images(1), "s", "i" * 257), 422, "request id", id="long request id"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "said"), REFUSED)
def test_odd_requests_are_refused_by_name(api, method, path, body, status, said):
    response = api(method, path, json=body)

    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert said in response.json()["error"]
    assert len(response.content) < 1000


def test_a_foreign_content_type_on_a_control_call_is_named(api):
    response = api("POST", "/v1/streams", content=b"<a/>", headers={"Content-Type": "application/xml"})

    assert response.status_code == 415
    assert "application/xml" in response.json()["error"]


def test_where_no_streams_are_made_a_wrong_id_is_still_called_wrong(reference, tmp_path):
    with application(tmp_path, reference, create_streams=False) as api:
        assert api("POST", INFER, json=infer_body(images(1), "../x")).status_code == 422
        assert api("POST", INFER, json=infer_body(images(1), "new")).status_code == 404


def test_a_page_of_snapshots_follows_a_marker_that_is_gone(api):
    api.create(id="s")
    taken = [api("POST", "/v1/streams/s/snapshots").json()["id"] for _ in range(4)]
    first = api("GET", "/v1/streams/s/snapshots?limit=2").json()
    api("DELETE", f"/v1/snapshots/{first['items'][1]['id']}")

    second = api("GET", f"/v1/streams/s/snapshots?limit=2&after={first['next']}").json()

    assert [snapshot["id"] for snapshot in first["items"] + second["items"]] == taken[::-1]


def test_a_snapshot_without_its_inputs_says_so_when_restored(api):
    api.create(id="s", adapt_batch_size=8)
    api.infer(images(2), "s")
    dropped = api("POST", "/v1/streams/s/snapshots", json={"inputs": "drop"}).json()

    restored = api("POST", "/v1/streams/s/restore", json={"snapshot": dropped["id"]}).json()

    assert "private inputs left out" in restored["tta_warning"]


@pytest.mark.parametrize("created", [math.nan, math.inf])
def test_a_manifest_without_a_time_is_refused(api, created):
    api.create(id="s")
    taken = api("POST", "/v1/streams/s/snapshots").json()
    manifest, tensors = unpack(api("GET", f"/v1/snapshots/{taken['id']}/download").content)
    forged = pack(manifest.model_copy(update={"created": created}), tensors)

    with pytest.raises(UnfitError, match="created"):
        unpack(forged)
    assert api("POST", "/v1/snapshots", content=forged, headers=OCTETS).status_code == 422


def test_what_is_no_bundle_and_no_keys_file_is_said_in_a_line(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(np.arange(200, dtype=np.uint8).tobytes())
    (tmp_path / "odd" / "bundle.toml").mkdir(parents=True)

    for folder in (file, tmp_path / "odd"):
        with pytest.raises(BundleError, match="bundle"):
            read_bundle(folder)
    with pytest.raises(SettingsError, match="is no text"):
        read_keys(file)


@pytest.mark.parametrize("line", ["mean = [nan, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]", "value_range = [0.0, inf]"])
def test_settings_of_a_bundle_are_finite(tmp_path, line):
    folder = torch_bundle(tmp_path / "bundle")
    toml = (folder / "bundle.toml").read_text().replace("shape = [3, 16, 16]", f"shape = [3, 16, 16]\n{line}")
    (folder / "bundle.toml").write_text(toml)

    with pytest.raises(BundleError, match="finite"):
        read_bundle(folder)
