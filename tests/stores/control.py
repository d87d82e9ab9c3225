"""The control calls that the stores' tests make, each checked; and what holds for every snapshot in a store."""

from collections.abc import Iterator
from typing import Any

import httpx

from service.storage.snapshots.format import unpack

UNGUARDED = {"collapse": "off", "harm": "off"}


def create(client: httpx.Client, stream: str, durability: str, adapter: str = "batch+tent") -> None:
    """Create a stream whose guard throws no step away, so that each request is a step."""
    body = {"id": stream, "durability": durability, "adapter": adapter, "guard": UNGUARDED}
    created = client.post("/v1/streams", json=body)
    assert created.status_code == 201, created.text
    assert created.json()["durability"] == durability


def view(client: httpx.Client, stream: str) -> dict[str, Any]:
    """Return a stream as the API tells it."""
    found = client.get(f"/v1/streams/{stream}")
    assert found.status_code == 200, found.text
    return found.json()


def take(client: httpx.Client, stream: str) -> tuple[dict[str, Any], bytes]:
    """Take a snapshot; return what the API tells of it, and its file."""
    taken = client.post(f"/v1/streams/{stream}/snapshots")
    assert taken.status_code == 201, taken.text
    return taken.json(), download(client, taken.json()["id"])


def download(client: httpx.Client, snapshot: str) -> bytes:
    """Return a snapshot's file."""
    file = client.get(f"/v1/snapshots/{snapshot}/download")
    assert file.status_code == 200, file.text
    return file.content


def restore(client: httpx.Client, stream: str, snapshot: str) -> httpx.Response:
    """Restore a snapshot onto a stream, whatever comes of it."""
    return client.post(f"/v1/streams/{stream}/restore", json={"snapshot": snapshot})


def snapshots(client: httpx.Client, stream: str) -> Iterator[dict[str, Any]]:
    """Return all that the API lists of a stream's snapshots."""
    after: str | None = ""
    while after is not None:
        listed = client.get(f"/v1/streams/{stream}/snapshots", params={"after": after})
        assert listed.status_code == 200, listed.text
        yield from listed.json()["items"]
        after = listed.json()["next"]


def verified_snapshots(client: httpx.Client, *streams: str) -> set[str]:
    """Download and verify every snapshot that is listed; return their ids."""
    found = set()
    for stream in streams:
        for listed in snapshots(client, stream):
            file = download(client, listed["id"])
            manifest, tensors = unpack(file)
            told = (listed["sha256"], listed["bytes"], listed["generation"], listed["stream"])
            assert told == (manifest.sha256, len(file), manifest.generation, stream)
            assert tensors
            found.add(listed["id"])
    return found


def events(client: httpx.Client, stream: str, kind: str) -> list[dict[str, Any]]:
    """Return a stream's events of a kind, the oldest first."""
    found, since = [], 0
    while since is not None:
        listed = client.get("/v1/events", params={"since": since, "stream": stream, "limit": 1000})
        assert listed.status_code == 200, listed.text
        found += [event for event in listed.json()["items"] if event["kind"] == kind]
        since = listed.json()["next"]
    return found
