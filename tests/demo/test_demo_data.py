"""The files that the demo ships: sizes, disjointness, accuracy, and the agreement of the two bundles."""

import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from service.demo import network as network_module

DEMO = Path(network_module.__file__).parent


@pytest.fixture(scope="module")
def stream():
    with np.load(DEMO / "stream.npz") as arrays:
        return arrays["images"], arrays["labels"]


@pytest.fixture(scope="module")
def probe():
    tensors = load_file(DEMO / "bundle" / "artefacts" / "probe.safetensors")
    return tensors["images"], tensors["labels"]


@pytest.fixture(scope="module")
def network():
    """Return the shipped torch model, built as its own bundle.toml says."""
    manifest = read_manifest("bundle")
    module, function = manifest["model"]["factory"].split(":")
    model = getattr(import_module(module), function)(len(manifest["classes"]["names"]))
    model.load_state_dict(load_file(DEMO / "bundle" / manifest["model"]["file"]), strict=True)
    return model.eval()


def read_manifest(bundle):
    return tomllib.loads((DEMO / bundle / "bundle.toml").read_text(encoding="utf-8"))


def normalize(images):
    """Map uint8 (N, 28, 28) or (N, 1, 28, 28) to the networks' input, by the manifest's own numbers."""
    declared = read_manifest("bundle")["input"]
    low, high = declared["value_range"]
    x = torch.as_tensor(images).reshape(-1, 1, 28, 28).float() / 255 * (high - low) + low
    return (x - declared["mean"][0]) / declared["std"][0]


def test_the_stream_is_small_and_long_enough(stream):
    images, labels = stream
    assert (DEMO / "stream.npz").stat().st_size < 2_000_000
    assert images.dtype == np.uint8
    assert images.shape[0] >= 2_000
    assert images.shape[1:] == (28, 28)
    assert labels.shape == images.shape[:1]
    assert set(labels.tolist()) == set(range(10))


def test_the_probe_set_is_balanced_in_every_batch(probe):
    images, labels = probe
    assert images.dtype == torch.uint8
    assert images.shape == (500, 1, 28, 28)
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [50] * 10
    assert all(batch.bincount(minlength=10).max() <= 7 for batch in labels.split(64))


def test_the_probe_set_and_the_stream_share_no_image(stream, probe):
    stream_bytes = [image.tobytes() for image in stream[0]]
    probe_bytes = [image.numpy().tobytes() for image in probe[0]]
    assert len(set(stream_bytes + probe_bytes)) == len(stream_bytes) + len(probe_bytes)


def test_the_shipped_model_is_accurate_on_clean_images(stream, probe, network):
    x = torch.cat([normalize(stream[0]), normalize(probe[0])])
    labels = torch.cat([torch.from_numpy(stream[1]).long(), probe[1]])
    with torch.no_grad():
        predicted = torch.cat([network(batch).argmax(1) for batch in x.split(500)])
    assert (predicted == labels).double().mean() >= 0.91


def test_weights_and_files_are_small():
    assert (DEMO / "bundle" / "model.safetensors").stat().st_size < 1_500_000
    assert (DEMO / "bundle_onnx" / "model.onnx").stat().st_size < 1_500_000


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_onnx_and_torch_give_the_same_logits_and_features(batch_size, stream, network):
    x = normalize(stream[0][:batch_size])
    session = onnxruntime.InferenceSession(DEMO / "bundle_onnx" / "model.onnx")
    logits, features = session.run(["logits", "features"], {"input": x.numpy()})
    with torch.no_grad():
        expected_features = network.features(x)
        expected_logits = network(x)
    assert features.shape == (batch_size, 64)
    torch.testing.assert_close(torch.from_numpy(logits), expected_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(features), expected_features, atol=1e-4, rtol=1e-4)


def test_the_onnx_file_is_whole_and_keeps_its_batch_normalization(network):
    graph = onnx.load(DEMO / "bundle_onnx" / "model.onnx", load_external_data=False).graph
    layers = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == layers
    assert not any(tensor.external_data for tensor in graph.initializer)


@pytest.mark.parametrize(("bundle", "name"), [("bundle", "fashion"), ("bundle_onnx", "fashion-onnx")])
def test_the_manifest_names_files_that_exist(bundle, name):
    manifest = read_manifest(bundle)
    assert manifest["name"] == name
    assert (DEMO / bundle / manifest["model"]["file"]).is_file()
    assert len(manifest["classes"]["names"]) == 10
