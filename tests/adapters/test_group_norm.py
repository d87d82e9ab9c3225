"""Networks with group norm, whose backward pass in PyTorch ends the process for some layouts of the input."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import group_norm

from adapters import SourceModel, create
from tests.serving import ROOT

SPECS = ("source+tent", "source+sar")


def tail() -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)


def layered() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), *tail())


class Functional(nn.Module):
    """Calls the function, so that there is no layer to see; its parameters are still those of a norm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.last = nn.LayerNorm(16)
        self.tail = nn.Sequential(*tail()[:2])
        self.head = tail()[2]

    def forward(self, x):
        y = group_norm(self.conv(x), 4, self.norm.weight, self.norm.bias)
        return self.head(self.last(self.tail(y.relu())))


class Own(nn.Module):
    """Brings its input into the layout by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.network = layered()

    def forward(self, x):
        return self.network(x.contiguous(memory_format=torch.channels_last))


def laid_out() -> nn.Module:
    return layered().to(memory_format=torch.channels_last)


NETWORKS = {"layer": layered, "function": Functional, "weights": laid_out, "own code": Own}


def source(make) -> SourceModel:
    torch.manual_seed(0)
    return SourceModel(make(), (3, 16, 16), 5)


def learn() -> None:
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for name, spec in itertools.product(NETWORKS, SPECS):
        print(name, spec, flush=True)
        adapter = create(spec)
        prepared = adapter.prepare(source(NETWORKS[name]))
        adapter.step(prepared, adapter.init(prepared), x)


def test_learning_a_network_with_group_norm_does_not_end_the_process():
    code = "from tests.adapters.test_group_norm import learn; learn()"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True, text=True)

    assert child.returncode == 0, child.stdout + child.stderr


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_group_norm_answers_as_it_was_shipped(name):
    shipped = source(NETWORKS[name])
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    adapter = create("source")
    prepared = adapter.prepare(shipped)

    output = adapter.predict(prepared, adapter.init(prepared), x)

    torch.testing.assert_close(output.logits, shipped.network.eval()(x), rtol=1e-5, atol=1e-6)
