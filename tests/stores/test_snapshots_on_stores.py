"""Snapshots on every kind of store: taken, listed, restored, deleted; and refused once they are damaged."""

import httpx
import pytest

from service.storage.snapshots.format import unpack
from tests.stores.control import create, download, restore, snapshots, take, verified_snapshots, view
from tests.stores.process import started
from tests.stores.requests import Request, infer

pytestmark = pytest.mark.e2e


def learn(client, stream, *seeds):
    return [infer(client, Request(stream, f"{stream}-{seed}", seed)) for seed in seeds]


def flipped(content):
    changed = bytearray(content)
    changed[-100] ^= 0x10
    return bytes(changed)


def in_its_head(content):
    changed = bytearray(content)
    changed[40] ^= 0x01
    return bytes(changed)


DAMAGES = {
    "a bit flipped in a tensor": flipped,
    "a bit flipped in the head": in_its_head,
    "truncated": lambda content: content[: len(content) // 2],
    "truncated by one byte": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda _: b"",
}


@pytest.fixture(scope="module", params=["sqlite+folder", "postgres+s3"])
def kept(request, make_store, tmp_path_factory):
    """A server on each kind of store in turn, with a stream that learned; and the store."""
    store = make_store(request.param)
    with started(tmp_path_factory.mktemp("server"), store) as server, server.client() as client:
        create(client, "s", "periodic")
        learn(client, "s", 1, 2, 3)
        yield client, store


def check_it_serves_on(client, stream, before):
    (answer,) = learn(client, stream, before["steps"] + 1000)
    assert answer.steps == before["steps"] + 1
    assert answer.generation == before["generation"] + 1


def test_a_snapshot_is_taken_listed_downloaded_restored_and_deleted(kept):
    client, store = kept
    create(client, "whole", "periodic")
    create(client, "other", "periodic")
    learn(client, "whole", 1, 2)
    before = store.paths()

    told, file = take(client, "whole")
    expected = learn(client, "whole", 3, 4)
    restored = restore(client, "other", told["id"])
    again = learn(client, "other", 3, 4)

    assert restored.status_code == 200, restored.text
    assert restored.json()["tta_warning"] == ""
    assert all(one.same_outputs(other) for one, other in zip(again, expected, strict=True))
    manifest, _ = unpack(file)
    assert (manifest.id, manifest.steps, manifest.stream) == (told["id"], 2, "whole")
    assert [listed["id"] for listed in snapshots(client, "whole")] == [told["id"]]
    assert verified_snapshots(client, "whole") == {told["id"]}
    path = store.path_of(file)
    assert path not in before

    assert client.delete(f"/v1/snapshots/{told['id']}").status_code == 204
    assert path not in store.paths()
    assert list(snapshots(client, "whole")) == []
    assert restore(client, "other", told["id"]).status_code == 404
    assert client.get(f"/v1/snapshots/{told['id']}/download").status_code == 404
    assert client.delete(f"/v1/snapshots/{told['id']}").status_code == 404


def test_many_snapshots_are_listed_once_each_newest_first(kept):
    client, _ = kept
    create(client, "many", "periodic")
    taken = []
    for seed in range(5):
        learn(client, "many", seed)
        taken.append(take(client, "many")[0]["id"])

    listed, after = [], ""
    while after is not None:
        page = client.get("/v1/streams/many/snapshots", params={"limit": 2, "after": after}).json()
        listed += [each["id"] for each in page["items"]]
        after = page["next"]

    assert listed == taken[::-1]


def test_an_upload_brings_back_a_deleted_snapshot(kept):
    client, _ = kept
    told, file = take(client, "s")
    client.delete(f"/v1/snapshots/{told['id']}")

    octets = {"Content-Type": "application/octet-stream"}
    uploaded = client.post("/v1/snapshots", content=file, headers=octets)

    assert uploaded.status_code == 201, uploaded.text
    assert download(client, told["id"]) == file
    assert restore(client, "s", told["id"]).status_code == 200


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_refused_with_a_reason_and_the_stream_goes_on(kept, damage):
    client, store = kept
    told, file = take(client, "s")
    store.write(store.path_of(file), DAMAGES[damage](file))
    before = view(client, "s")

    refused = restore(client, "s", told["id"])

    assert refused.status_code == 422, refused.text
    assert any(word in refused.json()["error"] for word in ("damaged", "no snapshot", "sha256", "manifest"))
    assert (view(client, "s")["generation"], view(client, "s")["steps"]) == (before["generation"], before["steps"])
    check_it_serves_on(client, "s", before)
    assert client.get("/v1/streams/s/snapshots").status_code == 200
    assert client.delete(f"/v1/snapshots/{told['id']}").status_code == 204


@pytest.mark.parametrize("damage", ["a bit flipped in a tensor", "truncated"])
def test_a_damaged_snapshot_is_never_downloaded_as_if_it_were_whole(kept, damage):
    client, store = kept
    told, file = take(client, "s")
    store.write(store.path_of(file), DAMAGES[damage](file))

    given = client.get(f"/v1/snapshots/{told['id']}/download")

    assert given.status_code == 422, f"{len(given.content)} bytes"
    assert "error" in given.json()


def test_a_missing_snapshot_is_refused_with_a_reason_and_the_stream_goes_on(kept):
    client, store = kept
    told, file = take(client, "s")
    store.remove(store.path_of(file))
    before = view(client, "s")

    refused = [restore(client, "s", told["id"]), client.get(f"/v1/snapshots/{told['id']}/download")]

    for response in refused:
        assert response.status_code in {404, 422}, response.text
        assert told["id"] in response.json()["error"]
    check_it_serves_on(client, "s", before)
    assert client.get("/v1/streams/s/snapshots").status_code == 200
    assert client.delete(f"/v1/snapshots/{told['id']}").status_code in {204, 404}


def test_snapshots_and_streams_outlive_an_orderly_restart(server):
    with server.client() as client:
        for durability in ("periodic", "sync"):
            create(client, durability, durability)
            learn(client, durability, 1, 2)
        taken = {durability: take(client, durability) for durability in ("periodic", "sync")}
        before = {stream: view(client, stream) for stream in taken}
    server.stop()
    server.start()

    with server.client() as client:
        for stream, (told, file) in taken.items():
            assert download(client, told["id"]) == file
            now = view(client, stream)
            assert (now["steps"], now["durability"]) == (before[stream]["steps"], stream)
            assert now["generation"] >= before[stream]["generation"]
            (answer,) = learn(client, stream, 3)
            assert answer.steps == 3


def test_two_clients_that_restore_and_snapshot_at_once_leave_whole_snapshots(kept):
    client, _ = kept
    create(client, "busy", "sync")
    learn(client, "busy", 1)
    told, _ = take(client, "busy")
    with httpx.Client(base_url=client.base_url, timeout=60) as other:
        for seed in range(3):
            assert restore(client, "busy", told["id"]).status_code == 200
            learn(other, "busy", seed + 10)
            take(other, "busy")

    assert len(verified_snapshots(client, "busy")) == 4
    assert view(client, "busy")["generation"] == 7
