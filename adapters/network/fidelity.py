"""Whether a prepared network answers as the network that was shipped; if not, the first layer that differs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from adapters.errors import UnfitModelError
from adapters.network.module_net import ModuleNet
from adapters.output_kind import as_logits
from adapters.source import SourceModel

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Of a difference, beside the largest logit: by the dtype of the shipped weights, whose rounding it bounds."""
REPEATED = 1e-5
"""Of a difference between two answers to the same images."""
LEAST_SCALE = 1e-3
CONTRADICTS = (
    "the network answers the same images differently the second time{layer}; let it draw no random numbers and keep no "
    "state of its own in eval mode"
)
DIFFERS = (
    "prepared for adaptation, the network answers {apart:.2g} apart from the network as it was shipped, "
    "expected at most {most:.2g}{layer}"
)


@dataclass(frozen=True)
class Answered:
    """Inputs (N, *input_shape) within the value range, and what the shipped network made of them (N, classes)."""

    x: Tensor
    outputs: Tensor


class Fidelity:
    """What the shipped network answers to some batches, beside which prepared ones are set.

    Args:
        shipped: The model as it was shipped.
        batches: Inputs (N, *input_shape) within the value range, of several sizes.

    Raises:
        UnfitModelError: If the network contradicts itself; the message names the first layer that does.
    """

    def __init__(self, shipped: SourceModel, batches: Sequence[Tensor]) -> None:
        training = any(module.training for module in shipped.network.modules())
        self._network = shipped.shared_copy() if training else shipped.network
        self._shipped = shipped
        self.answered = [Answered(x, self.outputs(x)) for x in batches]
        self._check_repeats(self.answered[0])

    @torch.no_grad()
    def outputs(self, x: Tensor) -> Tensor:
        """Return what the shipped network answers to x (N, *input_shape), as it stands."""
        outputs: Tensor = self._network(self._shipped.standardized(x.to(self._shipped.dtype)))
        return outputs

    def check(self, net: ModuleNet) -> None:
        """Compare a prepared network, under source statistics, with the shipped one.

        Raises:
            UnfitModelError: If they differ by more than rounding; the message names the first layer that does.
        """
        tolerance = TOLERANCES.get(self._shipped.dtype, TOLERANCES[torch.float32])
        for each in self.answered:
            run = partial(net.held, {}, {}, each.x)
            wanted = self._compared(as_logits(self._shipped.output, each.outputs.to(net.dtype)))
            apart, most = _apart(self._compared(run().logits), wanted), tolerance * _scale(wanted)
            if not apart <= most:
                layers = self._layers(each.x), layer_outputs(net.network, run)
                raise UnfitModelError(DIFFERS.format(apart=apart, most=most, layer=_first_apart(*layers, tolerance)))

    def _compared(self, logits: Tensor) -> Tensor:
        """Return what two answers are compared by; the logarithm of a small probability is all rounding."""
        return logits if self._shipped.output == "logits" else logits.softmax(1)

    def _check_repeats(self, each: Answered) -> None:
        if _apart(self.outputs(each.x), each.outputs) > REPEATED * _scale(each.outputs):
            layers = self._layers(each.x), self._layers(each.x)
            raise UnfitModelError(CONTRADICTS.format(layer=_first_apart(*layers, REPEATED)))

    def _layers(self, x: Tensor) -> dict[str, Tensor]:
        return layer_outputs(self._network, partial(self.outputs, x))


def layer_outputs(network: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """Return what each module of a network made in a run, by name, in the order that they were done."""
    made: dict[str, Tensor] = {}
    with _noting(network, made), torch.no_grad():
        run()
    return made


@contextmanager
def _noting(network: nn.Module, made: dict[str, Tensor]) -> Iterator[None]:
    def note(_module: nn.Module, _inputs: object, output: object, name: str) -> None:
        if isinstance(output, Tensor):
            made.setdefault(name, output.detach().clone())

    hooks = [module.register_forward_hook(partial(note, name=name)) for name, module in network.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first_apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float) -> str:
    """Name the first module that both have and that made something else in one than in the other."""
    for name, wanted in one.items():
        if name in other and not _apart(other[name], wanted) <= tolerance * _scale(wanted):
            return f"; the first layer that differs is {name}"
    return ""


def _apart(given: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of two tensors; values that are not finite count where one alone has them."""
    if given.shape != wanted.shape:
        return float("inf")
    given, wanted = given.double(), wanted.double()
    finite = torch.isfinite(wanted)
    if not torch.equal(torch.isfinite(given), finite):
        return float("inf")
    return float((given - wanted)[finite].abs().max()) if bool(finite.any()) else 0.0


def _scale(wanted: Tensor) -> float:
    finite = wanted[torch.isfinite(wanted)]
    return max(LEAST_SCALE, float(finite.abs().max())) if len(finite) else LEAST_SCALE
