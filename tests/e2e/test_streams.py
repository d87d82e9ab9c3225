"""Streams under concurrent load, interruption and restart, against real server processes."""

import asyncio

import httpx
import numpy as np
import pytest

from service.storage.snapshots.format import pack, unpack
from tests.bundles import torch_bundle, tripwire_bundle
from tests.serving import images, infer_body, outputs, serving, wait_ready

pytestmark = pytest.mark.e2e
SPECS = ["batch+tent", "unmix_tns+eta+lame"]
DURABILITIES = ("sync", "periodic")
"""The first repeats bit for bit; streams of the second may share a forward."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    arguments = ["--bundle", str(torch_bundle(folder / "a")), "--bundle", str(tripwire_bundle(folder / "b"))]
    with serving(folder, *arguments) as running:
        wait_ready(running)
        yield running


def infer(client, x, stream, model="reference", **settings):
    response = client.post(f"/v2/models/{model}/infer", json=infer_body(x, stream, **settings))
    assert response.status_code == 200, response.text
    return response.json()


async def storm(url, streams, clients, requests):
    """Let `clients` tasks send `requests` batches each, each to one of the streams; return the answers by stream."""
    answers = {stream: [] for stream in streams}

    async def send(client, number):
        stream = streams[number % len(streams)]
        for request in range(requests):
            x = images(3, seed=1000 * number + request)
            response = await client.post("/v2/models/reference/infer", json=infer_body(x, stream))
            assert response.status_code == 200, response.text
            answers[stream].append((response.json(), x))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(*(send(client, number) for number in range(clients)))
    return answers


def test_forty_clients_on_twenty_streams_get_gap_free_generations_and_the_answers_of_streams_served_alone(server):
    with server.client() as client:
        for number in range(20):
            kind = {"adapter": SPECS[number % 2], "durability": DURABILITIES[number // 2 % 2]}
            body = {"id": f"storm-{number}", "model": "reference", **kind}
            assert client.post("/v1/streams", json=body).status_code == 201
    answers = asyncio.run(storm(server.url, [f"storm-{n}" for n in range(20)], clients=40, requests=5))

    with server.client() as client:
        for number, (stream, answered) in enumerate(answers.items()):
            in_order = sorted(answered, key=lambda entry: entry[0]["parameters"]["tta_generation"])
            assert [a["parameters"]["tta_generation"] for a, _ in in_order] == list(range(1, 11))
            assert [a["parameters"]["tta_answered_generation"] for a, _ in in_order] == list(range(10))
            kind = {"adapter": SPECS[number % 2], "durability": DURABILITIES[number // 2 % 2]}
            client.post("/v1/streams", json={"id": f"alone-{stream}", "model": "reference", **kind})
            for answer, x in in_order:
                alone, given = outputs(infer(client, x, f"alone-{stream}")), outputs(answer)
                if kind["durability"] == "sync":
                    assert all(np.array_equal(array, alone[name]) for name, array in given.items()), stream
                # others may have taken their steps together, which agree to rounding
                np.testing.assert_allclose(given["probabilities"], alone["probabilities"], rtol=0, atol=1e-4)


def test_a_request_that_fails_in_the_middle_of_a_step_leaves_the_stream_as_it_was(server):
    poison = images(2, seed=5)
    poison[1, 0, 0, 0] = 1.0
    with server.client() as client:
        for stream in ("tripped", "calm"):
            infer(client, images(4, seed=1), stream, model="tripwire")
        before = client.get("/v1/streams/tripped").json()

        failed = client.post("/v2/models/tripwire/infer", json=infer_body(poison, "tripped"))
        after = client.get("/v1/streams/tripped").json()
        answers = [infer(client, images(4, seed=2), stream, model="tripwire") for stream in ("tripped", "calm")]

    assert failed.status_code == 500
    assert "the stream is as it was" in failed.json()["error"]
    assert (after["generation"], after["steps"]) == (before["generation"], before["steps"]) == (1, 1)
    assert np.array_equal(outputs(answers[0])["logits"], outputs(answers[1])["logits"])
    assert "tripped" in server.log.read_text()


def test_a_client_that_hangs_up_leaves_the_stream_before_or_after_its_step(server):
    async def hang_up():
        async with httpx.AsyncClient(base_url=server.url) as client:
            sent = [client.post("/v2/models/reference/infer", json=infer_body(images(64, i), "gone")) for i in range(6)]
            tasks = [asyncio.create_task(request) for request in sent]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with server.client() as client:
        infer(client, images(1), "gone")
        asyncio.run(hang_up())
        infer(client, images(1), "gone")
        stream = client.get("/v1/streams/gone").json()

    assert stream["generation"] == stream["steps"] <= 8


def test_restore_into_a_fresh_process_gives_bit_equal_answers_from_there_on(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle")
    create = {"id": "s", "adapter": "unmix_tns+tent", "options": {"seed": 3}}
    with serving(tmp_path, "--bundle", str(bundle), data=tmp_path / "one") as first, first.client() as client:
        wait_ready(first)
        client.post("/v1/streams", json=create)
        for seed in range(3):
            infer(client, images(6, seed), "s")
        taken = client.post("/v1/streams/s/snapshots", json={"name": "kept", "note": "before the storm"}).json()
        file = client.get(f"/v1/snapshots/{taken['id']}/download").content
        expected = [outputs(infer(client, images(6, seed), "s")) for seed in range(10, 14)]

    with serving(tmp_path, "--bundle", str(bundle), data=tmp_path / "two") as second, second.client() as client:
        wait_ready(second)
        client.post("/v1/streams", json=create | {"id": "other"})
        octets = {"Content-Type": "application/octet-stream"}
        uploaded = client.post("/v1/snapshots", content=file, headers=octets)
        restored = client.post("/v1/streams/other/restore", json={"snapshot": taken["id"]}).json()
        answers = [outputs(infer(client, images(6, seed), "other")) for seed in range(10, 14)]

    assert uploaded.status_code == 201
    assert uploaded.json() == taken
    assert (restored["generation"], restored["steps"], restored["tta_warning"]) == (1, 3, "")
    for ours, theirs in zip(answers, expected, strict=True):
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_an_orderly_stop_keeps_streams_and_the_next_start_takes_them_up(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle")
    with serving(tmp_path, "--bundle", str(bundle)) as first, first.client() as client:
        wait_ready(first)
        client.post("/v1/streams", json={"id": "s", "adapt_batch_size": 4})
        client.post("/v1/streams", json={"id": "ended"})
        for stream in ("s", "twin", "ended"):
            infer(client, images(6, 1), stream)
        infer(client, images(2, 2), "s")
        before = client.get("/v1/streams/s").json()
        first.stop()

    with serving(tmp_path, "--bundle", str(bundle)) as second, second.client() as client:
        wait_ready(second)
        after = client.get("/v1/streams/s").json()
        client.delete("/v1/streams/ended")
        second.stop()

    with serving(tmp_path, "--bundle", str(bundle)) as third, third.client() as client:
        wait_ready(third)
        left = [stream["id"] for stream in client.get("/v1/streams").json()["items"]]

    same = ("generation", "steps", "adapter", "adapt_batch_size", "waiting_images")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["waiting_images"] == 2
    assert left == ["s", "twin"]


def test_a_stopping_server_finishes_what_runs_and_refuses_what_comes(tmp_path):
    async def run(server):
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            bodies = [infer_body(images(64, seed), f"s{seed}") for seed in range(8)]
            tasks = [asyncio.create_task(client.post("/v2/models/reference/infer", json=body)) for body in bodies]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            server.process.terminate()
            return await asyncio.gather(*tasks, return_exceptions=True)

    with serving(tmp_path, "--bundle", str(torch_bundle(tmp_path / "bundle"))) as server:
        wait_ready(server)
        answers = asyncio.run(run(server))
        status = server.process.wait(30)
        log = server.log.read_text()

    statuses = [answer.status_code for answer in answers if isinstance(answer, httpx.Response)]
    assert 200 in statuses
    assert set(statuses) <= {200, 503}
    assert status == 0
    assert '"drained": true' in log


def test_private_inputs_are_named_and_can_be_left_out_of_a_snapshot(server):
    with server.client() as client:
        client.post("/v1/streams", json={"id": "private", "model": "reference", "adapt_batch_size": 8})
        infer(client, images(3), "private")
        kept = client.post("/v1/streams/private/snapshots").json()
        dropped = client.post("/v1/streams/private/snapshots", json={"inputs": "drop"}).json()
        waiting = []
        for snapshot in (kept, dropped):
            restored = client.post("/v1/streams/private/restore", json={"snapshot": snapshot["id"]}).json()
            waiting.append(restored["waiting_images"])

    assert (kept["contains_inputs"], kept["exact"]) == (True, True)
    assert (dropped["contains_inputs"], dropped["exact"]) == (False, False)
    assert waiting == [3, 0]


def test_an_upload_never_takes_the_place_of_another_snapshot(server):
    octets = {"Content-Type": "application/octet-stream"}
    with server.client() as client:
        infer(client, images(3), "donor")
        snapshot = client.post("/v1/streams/donor/snapshots").json()
        file = client.get(f"/v1/snapshots/{snapshot['id']}/download").content
        again = client.post("/v1/snapshots", content=file, headers=octets)
        manifest, tensors = unpack(file)
        forged = pack(manifest.model_copy(update={"note": "forged"}), tensors)
        refused = client.post("/v1/snapshots", content=forged, headers=octets)
        damaged = client.post("/v1/snapshots", content=file[:-1] + b"x", headers=octets)
        now = client.get(f"/v1/snapshots/{snapshot['id']}").json()

    assert (again.status_code, again.json()) == (201, snapshot)
    assert refused.status_code == 409
    assert "another snapshot has the id" in refused.json()["error"]
    assert damaged.status_code == 422
    assert now == snapshot
