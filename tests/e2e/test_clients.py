"""Clients that people already have work unchanged against the running server."""

import io

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.bundles import torch_bundle
from tests.serving import images, infer_body, outputs, serving, wait_ready

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    with serving(folder, "--bundle", str(torch_bundle(folder / "bundle"))) as running:
        wait_ready(running)
        yield running


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.address) as connected:
        yield connected


def tensor(x, *, binary):
    given = triton.InferInput("images", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    return given


def test_triton_client_reads_metadata_readiness_index_and_statistics(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("reference")
    assert client.is_model_ready("reference", "1")
    assert "sequence(string_id)" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("reference")
    assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 16, 16]}]
    assert client.get_model_repository_index() == [
        {"name": "reference", "version": "1", "state": "READY", "reason": ""}
    ]
    assert client.get_inference_statistics("reference")["model_stats"][0]["name"] == "reference"


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_triton_client_adapts_a_stream_by_sequence_id(client, binary):
    stream = f"triton-{binary}"
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "labels")]

    generations = []
    for seed in range(3):
        answer = client.infer(
            "reference",
            [tensor(images(4, seed), binary=binary)],
            outputs=wanted,
            sequence_id=stream,
            sequence_start=seed == 0,
            request_id=f"{stream}-{seed}",
        )
        generations.append(answer.get_response()["parameters"]["tta_generation"])

    assert generations == [1, 2, 3]
    assert answer.as_numpy("logits").shape == (4, 10)
    assert np.array_equal(answer.as_numpy("logits").argmax(1), answer.as_numpy("labels"))
    assert answer.get_response()["id"] == f"{stream}-2"


def test_json_and_binary_give_the_same_answer(client):
    x = images(5, seed=7)
    answers = [
        client.infer("reference", [tensor(x, binary=binary)], sequence_id=f"same-{binary}").as_numpy("logits")
        for binary in (False, True)
    ]
    np.testing.assert_array_equal(*answers)


def test_triton_client_understands_our_errors(client):
    with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
        client.infer("nope", [tensor(images(1), binary=True)])
    with pytest.raises(InferenceServerException, match="shape"):
        client.infer("reference", [tensor(np.zeros((1, 3, 8, 8), np.float32), binary=True)])


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_images_by_curl_forms_and_bytes_tensors_answer_as_the_tensor_does(server):
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    x = (pixels.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    file, path = png(pixels), "/v2/models/reference/infer"
    with server.client() as http:
        expected = outputs(http.post(path, json=infer_body(x, "images-a")).json())["logits"]
        body = {"content": file, "headers": {"Content-Type": "image/png", "X-Stream-Id": "images-b"}}
        plain = http.post(path, **body).json()
        form = http.post(
            path, files=[("image", ("a.png", file, "image/png"))], headers={"X-Stream-Id": "images-c"}
        ).json()
    with triton.InferenceServerClient(server.address) as connected:
        given = triton.InferInput("images", [1], "BYTES")
        given.set_data_from_numpy(np.array([file], dtype=object))
        encoded = connected.infer("reference", [given], sequence_id="images-d").as_numpy("logits")

    for logits in (outputs(plain)["logits"], outputs(form)["logits"], encoded):
        np.testing.assert_allclose(logits, expected, atol=1e-5)
