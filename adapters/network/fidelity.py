"""Compares a prepared network's answers with the shipped network's, and finds the first layer that differs."""

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
"""Tolerance on a difference, relative to the largest logit, by the dtype of the shipped weights."""
REPEATED = 1e-5
"""Relative tolerance on the difference between two answers to the same images."""
LEAST_SCALE = 1e-3
CONTRADICTS = (
    "the network answers the same images differently the second time{layer}; in eval mode it must not draw random "
    "numbers or keep state"
)
DIFFERS = (
    "prepared for adaptation, the network's answers differ from the shipped network's by {apart:.2g}, "
    "expected at most {most:.2g}{layer}"
)


@dataclass(frozen=True)
class Answered:
    """Inputs (N, *input_shape) within the value range, and the shipped network's outputs (N, classes)."""

    x: Tensor
    outputs: Tensor


class Fidelity:
    """The shipped network's answers to some batches, with which prepared networks are compared.

    Args:
        shipped: The model as it was shipped.
        batches: Inputs (N, *input_shape) within the value range, of several sizes.

    Raises:
        UnfitModelError: If the network answers the same images differently the second time; the message names the
            first layer that differs.
    """

    def __init__(self, shipped: SourceModel, batches: Sequence[Tensor]) -> None:
        training = any(module.training for module in shipped.network.modules())
        self._network = shipped.shared_copy() if training else shipped.network
        self._shipped = shipped
        self.answered = [Answered(x, self.outputs(x)) for x in batches]
        self._check_repeats(self.answered[0])

    @torch.no_grad()
    def outputs(self, x: Tensor) -> Tensor:
        """Return the shipped network's outputs for x (N, *input_shape)."""
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
            expected = self._comparable(as_logits(self._shipped.output, each.outputs.to(net.dtype)))
            apart, most = _apart(self._comparable(run().logits), expected), tolerance * _scale(expected)
            if not apart <= most:
                layers = self._layers(each.x), layer_outputs(net.network, run)
                raise UnfitModelError(DIFFERS.format(apart=apart, most=most, layer=_first_apart(*layers, tolerance)))

    def _comparable(self, logits: Tensor) -> Tensor:
        """Return logits, or probabilities if the network does not output logits.

        The logarithm of a small probability would be dominated by rounding.
        """
        return logits if self._shipped.output == "logits" else logits.softmax(1)

    def _check_repeats(self, each: Answered) -> None:
        if _apart(self.outputs(each.x), each.outputs) > REPEATED * _scale(each.outputs):
            layers = self._layers(each.x), self._layers(each.x)
            raise UnfitModelError(CONTRADICTS.format(layer=_first_apart(*layers, REPEATED)))

    def _layers(self, x: Tensor) -> dict[str, Tensor]:
        return layer_outputs(self._network, partial(self.outputs, x))


def layer_outputs(network: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """Return the first output of each module of a network in a run, by name, in the order of completion."""
    outputs: dict[str, Tensor] = {}
    with _recording(network, outputs), torch.no_grad():
        run()
    return outputs


@contextmanager
def _recording(network: nn.Module, outputs: dict[str, Tensor]) -> Iterator[None]:
    def note(_module: nn.Module, _inputs: object, output: object, name: str) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(name, output.detach().clone())

    hooks = [module.register_forward_hook(partial(note, name=name)) for name, module in network.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first_apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float) -> str:
    """Return a clause that names the first module in both mappings whose outputs differ; "" if there is none."""
    for name, expected in one.items():
        if name in other and not _apart(other[name], expected) <= tolerance * _scale(expected):
            return f"; the first layer that differs is {name}"
    return ""


def _apart(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors; infinity if one has NaN or infinity where the other is finite."""
    if actual.shape != expected.shape:
        return float("inf")
    actual, expected = actual.double(), expected.double()
    finite = torch.isfinite(expected)
    if not torch.equal(torch.isfinite(actual), finite):
        return float("inf")
    return float((actual - expected)[finite].abs().max()) if bool(finite.any()) else 0.0


def _scale(expected: Tensor) -> float:
    finite = expected[torch.isfinite(expected)]
    return max(LEAST_SCALE, float(finite.abs().max())) if len(finite) else LEAST_SCALE
