"""A folder as benchmarks of the CIFAR ResNet-20 read it: random images, and an untrained network's weights."""

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.resnet20 import ResNet20


def write_data(folder, corruption, images, source_images=0):
    """Fill a folder; without source images it has neither those nor their labels."""
    rng = np.random.default_rng(0)
    for name, count in ((corruption, images), ("source_images", source_images)):
        if count:
            np.save(folder / f"{name}.npy", rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
    if source_images:
        np.save(folder / "source_labels.npy", np.arange(source_images) % 10)
    torch.manual_seed(0)
    weights = {name: value for name, value in ResNet20().state_dict().items() if "num_batches" not in name}
    save_file(weights, folder / "resnet20.safetensors")
    return folder
