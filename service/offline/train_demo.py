"""Train the demo's source model, write its two bundles and its stream: `python -m service.offline.train_demo --help`.

It needs the `dev` extra (onnxscript) and, with the default options, about 20 minutes on one core. The source artefacts
are made from the training images. To add a new learner's artefacts to the shipped bundle without training, which takes
a minute, run
`python -m service.offline.train_demo --data /usr/share/datasets/fashion-mnist --out service/demo --artefacts-only`
(Debian's package `dataset-fashion-mnist` has the images).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from onnxscript.optimizer import fold_constants_ir, remove_unused_nodes
from rich.console import Console
from rich.progress import track
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name every PyTorch user reads

from service.demo.network import build
from service.models.bundle import read_without_artefacts
from service.models.hosted import load_source
from service.offline.calibration.data import data_of
from service.offline.calibration.plan import Wanted
from service.offline.calibration.run import calibrate_bundle

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN, STD = 0.2860, 0.3530
BATCH_SIZE = 128
MAX_SHIFT = 1
STREAM_SIZE = 2500
PROBE_PER_CLASS = 50
FACTORY = "service.demo.network:build"
SHIPPED = {("eata", "cotta", "ecotta"): ("batch", "ema", "unmix_tns"), ("rmt",): ("batch", "rotta_bn")}
"""The learners whose source artefacts are shipped, with their normalizers. RMT's artefacts take megabytes."""

TORCH_MODEL = """\
kind = "torch"
file = "model.safetensors"
factory = "service.demo.network:build"
features = "classifier"
"""
ONNX_MODEL = """\
kind = "onnx"
file = "model.onnx"
features = "features"
logits = "logits"
"""
BUNDLE = """\
name = "{name}"
version = "1"
description = "{description}"
licence = "Apache-2.0 (weights); images: Fashion-MNIST, MIT"
adapter = "{adapter}"

[model]
{model}
[input]
name = "input"
shape = [1, 28, 28]
datatype = "FP32"
value_range = [0.0, 1.0]
mean = [{mean:.4f}]
std = [{std:.4f}]
resize = "stretch"

[classes]
names = [{classes}]
"""

Images = npt.NDArray[np.uint8]
"""Grey images (N, 28, 28), or labels (N,)."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images uint8 (N, 28, 28) and their labels uint8 (N,)."""

    images: Images
    labels: Images


class LogitsAndFeatures(nn.Module):
    """The network for the ONNX export, with the feature vector as a second output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (N, 10) and features (N, 64) for normalized images (N, 1, 28, 28)."""
        features = self.network.features(x)  # type: ignore[operator]  # build() promises an nn.Module only
        return self.network.classifier(features), features  # type: ignore[operator]  # as above


def read_fashion_mnist(folder: Path, part: str) -> Labelled:
    """Read one part of Fashion-MNIST.

    Args:
        folder: holds the four files as published (`train-images-idx3-ubyte.gz` and so on).
        part: `train` (60,000 images) or `t10k` (10,000).
    """
    images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", header_bytes=16)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", header_bytes=8)
    return Labelled(images.reshape(len(labels), 28, 28), labels)


def split(test: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """Draw the demo stream (2,500 test images) and a class-balanced probe set (500 of the others).

    The classes of the probe set take turns, so that every slice of it is balanced.
    """
    order = np.random.default_rng(seed).permutation(len(test.labels))
    stream, rest = order[:STREAM_SIZE], order[STREAM_SIZE:]
    by_class = [rest[test.labels[rest] == label][:PROBE_PER_CLASS] for label in range(len(CLASSES))]
    return _take(test, stream), _take(test, np.stack(by_class, axis=1).ravel())


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image (N, 28, 28) horizontally with probability 1/2, and shift it by up to one pixel.

    There is no other augmentation, because the source model must not be robust to the demo's corruptions.
    """
    images, size = len(x), x.shape[-1]
    flipped = torch.rand(images, 1, 1, generator=generator) < 0.5
    padded = F.pad(torch.where(flipped, x.flip(-1), x), (MAX_SHIFT,) * 4)
    shift = torch.randint(0, 2 * MAX_SHIFT + 1, (2, images, 1), generator=generator) + torch.arange(size)
    return padded[torch.arange(images)[:, None, None], shift[0][:, :, None], shift[1][:, None, :]]


def train(network: nn.Module, data: Labelled, epochs: int, seed: int, console: Console) -> None:
    """Train `network` in place with SGD under a one-cycle learning rate, and leave it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels).long()
    steps = len(labels) // BATCH_SIZE
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.15, total_steps=steps * epochs, pct_start=0.2)
    network.train()
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(labels), generator=generator)[: steps * BATCH_SIZE].view(steps, BATCH_SIZE)
        total_loss = 0.0
        for batch in track(order, f"epoch {epoch}/{epochs}", console=console):
            loss = F.cross_entropy(network(normalize(augment(images[batch], generator))), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in PyTorch
            optimizer.step()
            schedule.step()
            total_loss += loss.item()
        console.print(f"epoch {epoch}/{epochs}: training loss {total_loss / steps:.4f}")
    network.eval()


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 images (N, 28, 28) to the network's input: float32 (N, 1, 28, 28), mean 0 and std 1 over training."""
    return (images[:, None].float() / 255 - MEAN) / STD


@torch.no_grad()
def accuracy(network: nn.Module, data: Labelled) -> float:
    """Return the fraction of `data` that `network` classifies correctly."""
    logits = torch.cat([network(normalize(batch)) for batch in torch.from_numpy(data.images).chunk(20)])
    return (logits.argmax(1) == torch.from_numpy(data.labels)).double().mean().item()


def write_torch_bundle(folder: Path, network: nn.Module, probe: Labelled) -> None:
    """Write weights, `bundle.toml` and the labelled probe set."""
    (folder / "artefacts").mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    # Not save_file, because only their owner can read its files, and a server may run as another user.
    (folder / "model.safetensors").write_bytes(save(weights))
    tensors = {
        "images": torch.from_numpy(probe.images)[:, None].contiguous(),
        "labels": torch.from_numpy(probe.labels).long(),
    }
    (folder / "artefacts" / "probe.safetensors").write_bytes(save(tensors))
    description = "ResNet-10 for Fashion-MNIST, 28x28 grey images of clothes"
    _write_toml(folder, "fashion", "ema", description, TORCH_MODEL)


def write_onnx_bundle(folder: Path, network: nn.Module) -> None:
    """Write the network as one ONNX file that keeps its batch normalization, and its `bundle.toml`."""
    folder.mkdir(parents=True, exist_ok=True)
    # The exporter's own optimizer would fold each BatchNormalization into its convolution, so that adapters could not
    # find it. Constant folding only removes the nodes that reshape constants.
    program = torch.onnx.export(
        LogitsAndFeatures(network).eval(),
        (torch.zeros(2, 1, 28, 28),),
        input_names=["input"],
        output_names=["logits", "features"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program; it was expected to with dynamo=True.")
    fold_constants_ir(program.model)
    remove_unused_nodes(program.model)
    for node in program.model.graph:
        node.metadata_props.clear()  # removes stack traces, which name folders of the training machine
    program.save(folder / "model.onnx", external_data=False)
    description = "ResNet-10 for Fashion-MNIST as an ONNX graph, 28x28 grey images of clothes"
    _write_toml(folder, "fashion-onnx", "source", description, ONNX_MODEL)


def main(
    data: Annotated[Path, typer.Option(help="Folder with the four Fashion-MNIST .gz files.")],
    out: Annotated[Path, typer.Option(help="Folder to write bundle/, bundle_onnx/ and stream.npz to.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 60,000 training images.")] = 14,
    seed: Annotated[int, typer.Option(help="Decides the weights, the order, the augmentation and the split.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; another number gives slightly other weights.")] = 1,
    artefacts_only: Annotated[
        bool, typer.Option("--artefacts-only", help="Train nothing; make the source artefacts of OUT/bundle as it is.")
    ] = False,
) -> None:
    """Train the demo's source model on Fashion-MNIST, then write its two bundles and the demo stream."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    training = read_fashion_mnist(data, "train")
    if not artefacts_only:
        make_model(training, read_fashion_mnist(data, "t10k"), out, epochs, seed)
    make_artefacts(out / "bundle", training)


def make_artefacts(folder: Path, training: Labelled) -> None:
    """Calibrate the torch bundle on training images. Its probe set of test images is kept."""
    bundle = read_without_artefacts(folder)
    source = load_source(bundle, (FACTORY,), threads=1)
    data = data_of(training.images, training.labels, bundle)
    for learners, normalizers in SHIPPED.items():
        calibrate_bundle(bundle, source, data, Wanted(learners=learners, normalizers=normalizers))


def make_model(training: Labelled, test: Labelled, out: Path, epochs: int, seed: int) -> None:
    """Train the source model, and write its two bundles and the demo stream."""
    console = Console()
    torch.manual_seed(seed)
    network = build(len(CLASSES))
    # Training on a CPU takes 20 to 50 % less time in this memory format.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # left out of PyTorch's annotations
    train(network, training, epochs, seed, console)
    console.print(f"clean test accuracy over {len(test.labels)} images: {accuracy(network, test):.2%}")
    stream, probe = split(test, seed)
    write_torch_bundle(out / "bundle", network, probe)
    write_onnx_bundle(out / "bundle_onnx", network)
    np.savez_compressed(out / "stream.npz", images=stream.images, labels=stream.labels)
    console.print(f"wrote {out / 'bundle'}, {out / 'bundle_onnx'} and {out / 'stream.npz'}")


def _read_idx(path: Path, header_bytes: int) -> Images:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header_bytes).copy()


def _take(data: Labelled, indices: npt.NDArray[np.int64]) -> Labelled:
    return Labelled(data.images[indices], data.labels[indices])


def _write_toml(folder: Path, name: str, adapter: str, description: str, model: str) -> None:
    classes = ", ".join(f'"{class_name}"' for class_name in CLASSES)
    text = BUNDLE.format(
        name=name, adapter=adapter, description=description, model=model, mean=MEAN, std=STD, classes=classes
    )
    (folder / "bundle.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
