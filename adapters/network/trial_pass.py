"""One pass of a prepared network over a made image: what it shows of the network, and why it cannot be adapted."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adapters.base import NormLayer
from adapters.errors import UnfitModelError
from adapters.functional.moments import source_normalize
from adapters.network.norm_slots import NormSlot
from adapters.source import SourceModel

DRAWS = (
    "draws random numbers in eval mode, so that it answers the same image differently each time; "
    "turn it off there (`functional.dropout(x, p, training=self.training)`, random depth while training only)"
)


def try_out(network: nn.Module, slots: Mapping[str, NormSlot], source: SourceModel, dtype: torch.dtype) -> None:
    """Run a prepared network on one image; note at its slots what they are given, and which of them it bypasses.

    A network that fails here is left to fail on its first request, with the error of that.

    Raises:
        UnfitModelError: If it draws random numbers, does not answer by a tensor, or cannot be computed in float32.
    """
    x = _image(source).to(dtype)
    met: dict[str, int] = {}
    try:
        with torch.no_grad(), _observed(slots, met), _without_chance():
            answer = network(x)
    except UnfitModelError:
        raise
    except Exception as error:  # noqa: BLE001 - a network's own code may raise anything
        if source.narrow is not None:
            raise UnfitModelError(
                f"the network is in {source.narrow} and fails in float32, which it is computed in here: {error}"
            ) from None
        return
    if not isinstance(answer, Tensor):
        raise UnfitModelError(f"the network answers by a {type(answer).__name__}, expected a tensor of (N, classes)")
    for name, dims in met.items():
        slots[name].spatial &= dims > 2
    for name in _bypassed(network, [name for name in slots if name not in met], x):
        slots[name].bypassed = True


def _image(source: SourceModel) -> Tensor:
    low, high = source.value_range
    generator = torch.Generator().manual_seed(0)
    return low + (high - low) * torch.rand(1, *source.input_shape, generator=generator)


@contextmanager
def _observed(slots: Mapping[str, NormSlot], met: dict[str, int]) -> Iterator[None]:
    """Within the block, note the least number of dimensions of each slot's inputs."""

    def note(layer: NormLayer, x: Tensor) -> Tensor:
        met[layer.name] = min(met.get(layer.name, x.dim()), x.dim())
        return source_normalize(layer, x)

    before: dict[str, Callable[[NormLayer, Tensor], Tensor]] = {name: slot.normalize for name, slot in slots.items()}
    for slot in slots.values():
        slot.normalize = note
    try:
        yield
    finally:
        for name, slot in slots.items():
            slot.normalize = before[name]


@contextmanager
def _without_chance() -> Iterator[None]:
    """Refuse a block that draws from a global generator, whose state is put back."""
    before, python = torch.get_rng_state(), random.getstate()
    try:
        yield
        drawn = not torch.equal(before, torch.get_rng_state()) or random.getstate() != python
    finally:
        torch.set_rng_state(before)
        random.setstate(python)
    if drawn:
        raise UnfitModelError(f"the network {DRAWS}")


def _bypassed(network: nn.Module, unmet: list[str], x: Tensor) -> list[str]:
    """Return the layers, of those that were not called, whose statistics reach the answer all the same.

    Statistics that are NaN show in what is computed from them. Layers of parts that run only while training do not.
    """
    found = []
    for name in unmet:
        poison = {
            path: torch.full_like(network.get_buffer(path), torch.nan)
            for path in (f"{name}.running_mean", f"{name}.running_var")
        }
        with torch.no_grad():
            answer: Tensor = functional_call(network, poison, (x,))
        if not bool(torch.isfinite(answer).all()):
            found.append(name)
    return found
