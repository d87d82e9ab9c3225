"""Normalisation in few passes: its gradients, its precision, and that it is the same however inputs lie in memory."""

import pytest
import torch
from torch import nn

from adapters import SourceModel, create
from adapters.functional import affine, affinity

LAYOUTS = [
    pytest.param(torch.contiguous_format, id="channels first"),
    pytest.param(torch.channels_last, id="channels last"),
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def maps(layout, count=4, channels=5, side=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, side, side, generator=generator, dtype=dtype).contiguous(memory_format=layout)


def values(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)


@every_layout
def test_gradients_are_those_of_finite_differences(layout):
    x = maps(layout).requires_grad_()

    assert torch.autograd.gradcheck(affine.instance_powers, (x,))
    assert torch.autograd.gradcheck(affine.scaled, (x, values(4, 5), values(4, 5)))
    assert torch.autograd.gradcheck(affine.scaled, (x, values(5), values(5)))
    assert torch.autograd.gradcheck(lambda *given: affine.batch_normalized(*given, 1e-5)[0], (x, values(5), values(5)))


@every_layout
def test_a_batch_is_normalised_as_by_pytorch(layout):
    x, weight, bias = maps(layout), values(5).detach(), values(5).detach()

    y, mean, var = affine.batch_normalized(x, weight, bias, 1e-5)

    torch.testing.assert_close(y, nn.functional.batch_norm(x, None, None, weight, bias, training=True))
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(var, x.var((0, 2, 3), correction=0))


@every_layout
def test_a_mean_of_many_deviations_costs_no_digits(layout):
    x = maps(layout, count=64, channels=16, side=32, dtype=torch.float32) + 1000

    y, _, var = affine.batch_normalized(x, None, None, 1e-5)
    expected, _, expected_var = affine.batch_normalized(x.double(), None, None, 1e-5)

    torch.testing.assert_close(var.double(), expected_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-4)  # 1000 itself is known to 6e-5


class Flattening(nn.Module):
    """A network whose own code wants channels first: `view` of feature maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 5)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.linear(y.view(len(y), -1))


@pytest.mark.parametrize("spec", ["source", "batch", "unmix_tns", "batch+tent", "unmix_tns+eta"])
def test_a_network_that_views_its_maps_keeps_channels_first(spec):
    torch.manual_seed(0)
    source = SourceModel(Flattening().eval(), (3, 8, 8), 5)
    adapter = create(spec)
    prepared = adapter.prepare(source)

    output, _ = adapter.step(prepared, adapter.init(prepared), torch.rand(4, 3, 8, 8))

    assert torch.isfinite(output.logits).all()


def test_distances_of_near_vectors_keep_their_digits():
    base = nn.functional.normalize(torch.rand(1, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    apart = torch.linspace(0, 1e-4, 5)[:, None]
    features = base + apart * torch.eye(64)[:1]

    found, expected = affinity.distances(features), torch.cdist(features.double(), features.double())

    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
