"""Activation checkpointing: the backward pass recomputes a part's activations instead of keeping them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Resume = Callable[[], AbstractContextManager[None]]


class Recomputed(nn.Module):
    """Runs `body`; if a gradient is needed, it keeps only the input, and the backward pass runs `body` again.

    It works with plain autograd only, not with `torch.func` transforms. Each forward pass calls `entering`, which
    returns a function that makes a context for the recomputation. `ModuleNet` sets it, so that norm layers read the
    same statistics in both passes.
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
        y: Tensor = _Recompute.apply(self.body, self.entering(), tuple(learned), x, *learned.values())  # type: ignore[no-untyped-call]
        return y


class _Recompute(torch.autograd.Function):
    """Keeps the input and the parameters; the backward pass recomputes the rest."""

    @staticmethod
    def forward(
        ctx: Any, body: nn.Module, resume: Resume, names: tuple[str, ...], x: Tensor, *learned: Tensor
    ) -> Tensor:
        ctx.body, ctx.resume, ctx.names = body, resume, names
        ctx.save_for_backward(x, *learned)
        return _run(body, dict(zip(names, learned, strict=True)), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        needs = ctx.needs_input_grad[3:]
        leaves = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, needs, strict=True)]
        with torch.enable_grad(), ctx.resume():
            y = _run(ctx.body, dict(zip(ctx.names, leaves[1:], strict=True)), leaves[0])
        of_leaves = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], grads[0]))
        return (None, None, None, *(next(of_leaves) if need else None for need in needs))


def _run(body: nn.Module, learned: Mapping[str, Tensor], x: Tensor) -> Tensor:
    y: Tensor = functional_call(body, dict(learned), (x,)) if learned else body(x)
    return y
