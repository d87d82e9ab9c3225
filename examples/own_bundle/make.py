"""Train a network, and write its bundle: `python examples/own_bundle/make.py [FOLDER]`."""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from networks import trained
from PIL import Image
from safetensors.torch import save_file

CLASSES = ("rows", "columns", "checks")
MEAN, STD = 0.5, 0.25
TOML = f"""\
name = "stripes"
version = "1"
description = "Stripes and checks, 16x16 colour images"
licence = "Apache-2.0"
adapter = "ema"

[model]
kind = "torch"
file = "model.safetensors"
factory = "networks:build"

[input]
name = "images"
shape = [3, 16, 16]
value_range = [0.0, 1.0]
mean = [{MEAN}, {MEAN}, {MEAN}]
std = [{STD}, {STD}, {STD}]

[classes]
names = {list(CLASSES)}
""".replace("'", '"')


def drawn(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw noisy images (N, 3, 16, 16) of stripes and checks, and their labels (N,)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(CLASSES), size=count)
    rows, columns = np.indices((16, 16)) // 2 % 2
    patterns = np.stack([rows, columns, rows ^ columns])[labels, None]
    contrast = generator.uniform(0.2, 0.5, (count, 3, 1, 1))
    images = 0.5 + contrast * (patterns - 0.5) + generator.normal(0, 0.1, (count, 3, 16, 16))
    return (255 * images.clip(0, 1)).astype(np.uint8), labels


def main() -> None:
    """Write the bundle, beside it its training images and a picture to send."""
    bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "build/stripes")
    bundle.mkdir(parents=True, exist_ok=True)
    images, labels = drawn(3000, seed=0)
    network = trained((torch.from_numpy(images) / 255 - MEAN) / STD, torch.from_numpy(labels))
    save_file(network.state_dict(), bundle / "model.safetensors")
    (bundle / "bundle.toml").write_text(TOML)
    np.savez(bundle.with_name("stripes-training.npz"), images=images, labels=labels)
    tested, right = drawn(500, seed=1)
    with torch.no_grad():
        answers = network((torch.from_numpy(tested) / 255 - MEAN) / STD).argmax(1).numpy()
    Image.fromarray(tested[0].transpose(1, 2, 0)).save(bundle.with_name("stripes.png"))
    print(f"{bundle}: {100 * (answers == right).mean():.1f} % right; stripes.png shows {CLASSES[right[0]]}")


if __name__ == "__main__":
    main()
