"""Small networks as outsiders write them: norm layers of many kinds, and code around them that looks into them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

SHAPE, CLASSES = (3, 8, 8), 4


class NormAct(nn.BatchNorm2d):
    """A norm and an activation in one layer."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(super().forward(x))


class NormDropAct(nn.BatchNorm2d):
    """As the norm layers of large public libraries: calls the functional form, then drops and activates."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(0.5), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(self.drop(x))


class ScaledNorm(nn.BatchNorm2d):
    """Its scale is 1 + weight, and it has a parameter of its own after it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.zeros_(self.weight)
        self.gain = nn.Parameter(torch.tensor([1.5]))

    def forward(self, x: Tensor) -> Tensor:
        momentum = 0.1 if self.momentum is None else self.momentum
        y = torch.batch_norm(
            x, self.weight + 1, self.bias, self.running_mean, self.running_var, self.training, momentum, self.eps, False
        )
        return functional.relu(self.gain * y)


class HandNorm(nn.BatchNorm2d):
    """A batch norm whose code computes by itself."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class RestlessNorm(nn.BatchNorm2d):
    """Stays in training mode."""

    def train(self, mode: bool = True) -> "RestlessNorm":  # noqa: ARG002 - as PyTorch has it
        super().train(True)
        return self


class BatchOnly(nn.BatchNorm2d):
    """Uses the statistics of each batch and no others."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


class BatchAlways(nn.BatchNorm2d):
    """Moves its running statistics in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True)


class FrozenNorm(nn.Module):
    """A batch norm of buffers alone, as detection models have."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(channels) + 0.5)
        self.register_buffer("shift", torch.rand(channels) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]


class ChannelsFirst(nn.LayerNorm):
    """Layer norm over the channels of maps."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Indexed(nn.Module):
    """Looks into the norm layer that it holds, and asks for its type."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels)])

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norms[0]
        known = isinstance(norm, nn.BatchNorm2d) and norm.num_features == x.shape[1] and norm.affine
        y = norm(x) if known else x
        return functional.relu(y + norm.weight[:, None, None] + norm.running_mean[:, None, None] * norm.eps)


class Named(nn.Module):
    """Calls its norm layer by keyword."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.layer = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=x)


class Fused(nn.Module):
    """Folds its norm into its convolution as it runs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if self.training:
            return functional.relu(norm(self.conv(x)))
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight, bias = self.conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        return functional.relu(functional.conv2d(x, weight, bias, padding=1))


class Doubled(nn.Sequential):
    """A sequence with a `forward` of its own, which goes through its norm layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        return functional.relu(norm(functional.relu(norm(conv(x)))))


class Branched(nn.Module):
    """Has a second head that runs while training alone; calls its classifier by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _maps(nn.BatchNorm2d)
        self.second = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).mean((2, 3))
        answer: Tensor = self.head(input=features)
        return answer + 0.1 * self.second(features) if self.training else answer


class Dropping(nn.Module):
    """Drops in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _network(nn.BatchNorm2d)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(functional.dropout(x, 0.5))


class Telling(nn.Module):
    """Answers by more than logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _network(nn.BatchNorm2d)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x)}


class Narrowing(nn.Module):
    """Stored in half precision, and turns what it computes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _network(nn.BatchNorm2d)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.half())


def _maps(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), norm(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), norm(8), nn.ReLU()
    )


def _network(norm: Callable[[int], nn.Module], *, before: nn.Module | None = None) -> nn.Sequential:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    return nn.Sequential(*([] if before is None else [before]), *_maps(norm), *head)


def _with_vectors() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES),
    )  # fmt: skip


def _mixed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.GroupNorm(2, 8),
        nn.ReLU(), ChannelsFirst(8), NormAct(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


def _parametrized() -> nn.Sequential:
    network = _network(nn.BatchNorm2d)
    parametrize.register_parametrization(network[1], "weight", nn.Softplus())
    torch.nn.utils.parametrizations.weight_norm(network[3])
    return network


def _weighted() -> nn.Sequential:
    network = _network(NormAct)
    with torch.no_grad():
        weight = network[3].weight.detach().clone()
    del network[3]._parameters["weight"]
    network[3].register_parameter("weight_v", nn.Parameter(weight))
    network[3].register_parameter("weight_g", nn.Parameter(torch.full((8, 1, 1, 1), 2.0)))

    def computed(layer: nn.Module, _: object) -> None:
        layer.weight = layer.weight_g * layer.weight_v / layer.weight_v.norm()

    network[3].register_forward_pre_hook(computed)
    network(torch.rand(2, *SHAPE))
    return network


def _lazy() -> nn.Sequential:
    network = nn.Sequential(
        nn.LazyConv2d(6, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(CLASSES),
    )  # fmt: skip
    network(torch.rand(4, *SHAPE))
    return network


@dataclass(frozen=True)
class Outside:
    """A network and what of it can be adapted.

    Attributes:
        make: Makes it, untrained.
        norms: Whether its batch norm can be replaced.
        affine: Whether its norm layers have a weight or bias to learn.
        refused: Of what a refusal of it speaks; "" where it is served.
        options: Of parts that must be told something of it.
    """

    make: Callable[[], nn.Module]
    norms: bool = True
    affine: bool = True
    refused: str = ""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


IN_BODY = {"ecotta": {"parts": "body.0"}}
NETWORKS = {
    "plain": Outside(lambda: _network(nn.BatchNorm2d)),
    "subclassed": Outside(lambda: _network(NormAct)),
    "dropped_and_activated": Outside(lambda: _network(NormDropAct)),
    "scaled": Outside(lambda: _network(ScaledNorm)),
    "bn1d": Outside(_with_vectors),
    "sync": Outside(lambda: nn.SyncBatchNorm.convert_sync_batchnorm(_with_vectors())),
    "group_norm": Outside(lambda: _network(lambda c: nn.GroupNorm(2, c)), norms=False),
    "named_group_norm": Outside(lambda: _network(lambda c: Named(nn.GroupNorm(2, c))), norms=False),
    "named_input": Outside(lambda: _network(lambda c: Named(nn.BatchNorm2d(c)))),
    "layer_norm": Outside(lambda: _network(ChannelsFirst), norms=False),
    "mixed": Outside(_mixed),
    "affine_less": Outside(lambda: _network(lambda c: nn.BatchNorm2d(c, affine=False)), affine=False),
    "shared": Outside(lambda: _network(nn.BatchNorm2d, before=Doubled(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))),
    "half": Outside(lambda: _network(NormAct).half()),
    "bfloat16": Outside(lambda: _network(nn.BatchNorm2d).bfloat16()),
    "double": Outside(lambda: _network(NormAct).double()),
    "indexed": Outside(lambda: _network(Indexed)),
    "sequence": Outside(lambda: _network(lambda c: nn.Sequential(NormDropAct(c)))),
    "slow_statistics": Outside(lambda: _network(lambda c: nn.BatchNorm2d(c, momentum=None))),
    "lazy": Outside(_lazy),
    "parametrized": Outside(_parametrized),
    "weight_by_hook": Outside(_weighted),
    "second_head": Outside(Branched, options=IN_BODY),
    "fused": Outside(lambda: _network(nn.BatchNorm2d, before=Fused(3, 3)), norms=False),
    "by_hand": Outside(lambda: _network(HandNorm), norms=False),
    "frozen": Outside(lambda: _network(FrozenNorm), norms=False, affine=False),
    "instance_norm": Outside(
        lambda: _network(lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)),
        norms=False, affine=False,
    ),
    "no_statistics": Outside(
        lambda: _network(lambda c: nn.BatchNorm2d(c, track_running_stats=False)), refused="track_running_stats=True"
    ),
    "always_training": Outside(lambda: _network(RestlessNorm), refused="even in eval mode"),
    "batch_only": Outside(lambda: _network(BatchOnly), refused="even in eval mode"),
    "batch_always": Outside(lambda: _network(BatchAlways), refused="even in eval mode"),
    "dropout_in_eval": Outside(Dropping, options=IN_BODY, refused="draws random numbers"),
    "dict_of_answers": Outside(Telling, options=IN_BODY, refused="returns a dict"),
    "narrowing": Outside(lambda: Narrowing().half(), options=IN_BODY, refused="fails"),
    "not_run_yet": Outside(lambda: nn.Sequential(nn.LazyConv2d(2, 3), nn.Flatten()), refused="run the network once"),
}  # fmt: skip


def trained(outside: Outside) -> nn.Module:
    """Make a network, its running statistics those of some images, in eval mode."""
    torch.manual_seed(0)
    network = outside.make()
    if outside.refused:
        return network.eval()
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network((torch.rand(16, *SHAPE) - torch.rand(16, 3, 1, 1)).to(dtype))
    return network.eval()
