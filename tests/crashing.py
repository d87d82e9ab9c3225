"""A network whose backward ends its process, as native code may."""

import ctypes
import os
import time

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.bundles import torch_bundle
from tests.models import REFERENCE, untrained_reference_network

FACTORY = "tests.crashing:Crashing"
DEEDS = {
    "crash": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(600),
    "raise": lambda: 1 / 0,
    "nothing": lambda: None,
}


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, deed, least):
        ctx.deed, ctx.least = deed, least
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if len(grad) >= ctx.least:
            DEEDS[ctx.deed]()
        return grad, None, None


class Crashing(nn.Module):
    """The reference network, with one operation whose backward does a deed for batches of `least` images or more."""

    def __init__(self, deed: str, least: int = 1) -> None:
        super().__init__()
        self.network = untrained_reference_network()
        self.deed, self.least = deed, least

    def forward(self, x):
        x = self.network[:-1](x)
        return self.network[-1](Backward.apply(x, self.deed, self.least))


def crashing_bundle(folder, deed, least=1, name="reference", adapter="source"):
    torch_bundle(folder, name=name, adapter=adapter, factory=FACTORY)
    toml = folder / "bundle.toml"
    arguments = f'arguments = {{deed = "{deed}", least = {least}}}'
    toml.write_text(toml.read_text().replace("[model]\n", f"[model]\n{arguments}\n"))
    weights = {f"network.{name}": tensor for name, tensor in load_file(REFERENCE / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    return folder
