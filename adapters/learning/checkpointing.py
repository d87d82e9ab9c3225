"""A part of a network whose activations are computed again in the backward pass instead of being kept."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Resume = Callable[[], AbstractContextManager[None]]


class Recomputed(nn.Module):
    """Runs `body`; where a gradient is wanted, only its input is kept for the backward pass, which runs it again.

    For plain autograd: `torch.func` transforms do not see through it. `entering` is called at each forward pass and
    returns what makes the pass's surroundings anew in the backward pass (`ModuleNet` sets it: the statistics that norm
    layers read).
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.entering: Callable[[], Resume] = lambda: nullcontext

    def forward(self, x: Tensor) -> Tensor:
        """Return body(x)."""
        learned = {name: p for name, p in self.body.named_parameters() if p.requires_grad}
        if not torch.is_grad_enabled() or not (learned or x.requires_grad):
            return _run(self.body, {}, x)
        y: Tensor = _Again.apply(self.body, self.entering(), tuple(learned), x, *learned.values())  # type: ignore[no-untyped-call]
        return y


class _Again(torch.autograd.Function):
    """Keeps the input and the parameters; the rest is made again when the gradient comes."""

    @staticmethod
    def forward(
        ctx: Any, body: nn.Module, resume: Resume, names: tuple[str, ...], x: Tensor, *learned: Tensor
    ) -> Tensor:
        ctx.body, ctx.resume, ctx.names = body, resume, names
        ctx.save_for_backward(x, *learned)
        return _run(body, dict(zip(names, learned, strict=True)), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        wanted = ctx.needs_input_grad[3:]
        leaves = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad(), ctx.resume():
            y = _run(ctx.body, dict(zip(ctx.names, leaves[1:], strict=True)), leaves[0])
        found = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], grads[0]))
        return (None, None, None, *(next(found) if need else None for need in wanted))


def _run(body: nn.Module, learned: Mapping[str, Tensor], x: Tensor) -> Tensor:
    y: Tensor = functional_call(body, dict(learned), (x,)) if learned else body(x)
    return y
