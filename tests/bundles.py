"""Bundles made by the tests, from the reference network."""

import shutil
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.models import REFERENCE, reference_network

TOML = """
name = "{name}"
licence = "Apache-2.0"
adapter = "{adapter}"

[model]
{model}

[input]
name = "images"
shape = [3, 16, 16]

[classes]
names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
"""
TORCH = 'kind = "torch"\nfile = "model.safetensors"\nfactory = "{factory}"'
ONNX = 'kind = "onnx"\nfile = "model.onnx"\nfeatures = "features"'
FACTORY = "tests.models:untrained_reference_network"


def torch_bundle(folder: Path, name="reference", adapter="batch+tent", factory=FACTORY) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(REFERENCE / "model.safetensors", folder / "model.safetensors")
    (folder / "bundle.toml").write_text(TOML.format(name=name, adapter=adapter, model=TORCH.format(factory=factory)))
    return folder


def tripwire_bundle(folder: Path) -> Path:
    """A bundle whose network fails in the middle of a pass on some images."""
    torch_bundle(folder, name="tripwire", factory="tests.models:Tripwire")
    weights = {f"network.{name}": tensor for name, tensor in load_file(REFERENCE / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    return folder


class WithFeatures(torch.nn.Module):
    """The reference network, returning what enters its classifier too."""

    def __init__(self) -> None:
        super().__init__()
        network = reference_network().eval()
        self.encoder, self.classifier = network[:-1], network[-1]

    def forward(self, x):
        features = self.encoder(x)
        return self.classifier(features), features


def onnx_bundle(folder: Path, name="reference-onnx", adapter="source") -> Path:
    folder.mkdir(parents=True)
    with warnings.catch_warnings():  # the exporter of PyTorch warns of its own deprecations
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            WithFeatures().eval(),
            (torch.rand(2, 3, 16, 16),),
            input_names=["images"],
            output_names=["logits", "features"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            verbose=False,
        )
    program.save(folder / "model.onnx")
    (folder / "bundle.toml").write_text(TOML.format(name=name, adapter=adapter, model=ONNX))
    return folder
