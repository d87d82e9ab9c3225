"""A network that does to its process what an image asks for, as a model's own code may."""

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from tests.bundles import torch_bundle
from tests.models import REFERENCE, untrained_reference_network
from tests.serving import images

FACTORY = "tests.hazards:Hazard"
RAISED = (SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, StopIteration)
PAUSE, HANG, KILL, CRASH = (len(RAISED) + number for number in range(1, 5))
PAUSE_SECONDS = 1.5


class Hazard(nn.Module):
    """The reference network, which looks at the first value of each image before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.network = untrained_reference_network()

    def forward(self, x):
        for value in x[:, 0, 0, 0].tolist():
            asked = value * 16
            if asked in range(1, CRASH + 1):
                act(int(asked))
        return self.network(x)


def act(asked: int) -> None:
    if asked <= len(RAISED):
        raise RAISED[asked - 1]
    if asked == PAUSE:
        time.sleep(PAUSE_SECONDS)
    elif asked == HANG:
        time.sleep(600)
    elif asked == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        ctypes.string_at(0)


def asking(asked: int, count: int = 2) -> np.ndarray:
    """A batch of which one image asks for something."""
    x = images(count, seed=9)
    x[0, 0, 0, 0] = asked / 16
    return x


def hazard_bundle(folder: Path, adapter: str = "batch+tent") -> Path:
    torch_bundle(folder, name="hazard", adapter=adapter, factory=FACTORY)
    weights = {f"network.{name}": tensor for name, tensor in load_file(REFERENCE / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    return folder
