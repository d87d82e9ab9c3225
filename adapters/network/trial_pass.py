"""A trial pass of a prepared network over a random image, which finds out whether and how it can be adapted."""

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
    "do this in training mode only (`functional.dropout(x, p, training=self.training)`, random depth)"
)


def try_out(network: nn.Module, slots: Mapping[str, NormSlot], source: SourceModel, dtype: torch.dtype) -> None:
    """Run a prepared network on one image; set `spatial` and `bypassed` of its slots.

    A network that fails here is accepted: it will fail on its first request, with that error.

    Raises:
        UnfitModelError: If it draws random numbers, does not return a tensor, or was widened to float32 and fails.
    """
    x = _image(source).to(dtype)
    dimensions: dict[str, int] = {}
    try:
        with torch.no_grad(), _observed(slots, dimensions), _without_chance():
            answer = network(x)
    except UnfitModelError:
        raise
    except Exception as error:  # noqa: BLE001 - a network's own code may raise anything
        if source.narrow is not None:
            raise UnfitModelError(
                f"the network is stored in {source.narrow}; adaptation runs it in float32, where it fails: {error}"
            ) from None
        return
    if not isinstance(answer, Tensor):
        raise UnfitModelError(f"the network returns a {type(answer).__name__}, expected a tensor of (N, classes)")
    for name, dims in dimensions.items():
        slots[name].spatial &= dims > 2
    for name in _bypassed(network, [name for name in slots if name not in dimensions], x):
        slots[name].bypassed = True


def _image(source: SourceModel) -> Tensor:
    low, high = source.value_range
    generator = torch.Generator().manual_seed(0)
    return low + (high - low) * torch.rand(1, *source.input_shape, generator=generator)


@contextmanager
def _observed(slots: Mapping[str, NormSlot], dimensions: dict[str, int]) -> Iterator[None]:
    """Within the block, record the smallest number of dimensions of each slot's inputs."""

    def note(layer: NormLayer, x: Tensor) -> Tensor:
        dimensions[layer.name] = min(dimensions.get(layer.name, x.dim()), x.dim())
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
    """Refuse a block that draws from a global generator; restore the generator's state afterwards."""
    before, python = torch.get_rng_state(), random.getstate()
    try:
        yield
        drawn = not torch.equal(before, torch.get_rng_state()) or random.getstate() != python
    finally:
        torch.set_rng_state(before)
        random.setstate(python)
    if drawn:
        raise UnfitModelError(f"the network {DRAWS}")


def _bypassed(network: nn.Module, uncalled: list[str], x: Tensor) -> list[str]:
    """Return those uncalled layers whose statistics affect the answer nevertheless.

    The test sets a layer's statistics to NaN: the answer is then not finite if it depends on them. Layers that run only
    in training do not affect it.
    """
    found = []
    for name in uncalled:
        poison = {
            path: torch.full_like(network.get_buffer(path), torch.nan)
            for path in (f"{name}.running_mean", f"{name}.running_var")
        }
        with torch.no_grad():
            answer: Tensor = functional_call(network, poison, (x,))
        if not bool(torch.isfinite(answer).all()):
            found.append(name)
    return found
