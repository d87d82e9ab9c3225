"""Optimizers as pure functions: (params, grads, state) -> (params, state). They equal torch.optim's up to rounding."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapters.options import Options, option
from adapters.values import Params, PartState


@dataclass(frozen=True)
class OptimState(PartState):
    """First moment `mu` and second moment `nu` (empty for SGD), by parameter name, and the number of updates."""

    mu: Params
    nu: Params
    count: Tensor


@dataclass(frozen=True, kw_only=True)
class OptimOptions(Options):
    """Options of every learner that descends a gradient."""

    optimizer: Literal["adam", "sgd"] = option("adam", "Adam, or SGD with momentum")
    lr: float = option(1e-3, "learning rate", low=0.0, high=10.0)
    momentum: float = option(0.9, "SGD's momentum; Adam's first beta", low=0.0, high=0.9999)
    nesterov: bool = option(False, "SGD only: look ahead along the momentum")


def init(params: Params, options: OptimOptions) -> OptimState:
    """Return zero moments for params."""
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    nu = {name: torch.zeros_like(p) for name, p in params.items()} if options.optimizer == "adam" else {}
    return OptimState(zeros, nu, torch.zeros((), dtype=torch.int64))


def update(params: Params, grads: Params, state: OptimState, options: OptimOptions) -> tuple[Params, OptimState]:
    """Take one descent step."""
    count = state.count + 1
    if options.optimizer == "adam":
        return _adam(params, grads, OptimState(state.mu, state.nu, count), options)
    return _sgd(params, grads, OptimState(state.mu, state.nu, count), options)


def _adam(
    params: Params, grads: Params, state: OptimState, options: OptimOptions, beta2: float = 0.999, eps: float = 1e-8
) -> tuple[Params, OptimState]:
    beta1 = options.momentum
    mu = {name: beta1 * state.mu[name] + (1 - beta1) * g for name, g in grads.items()}
    nu = {name: beta2 * state.nu[name] + (1 - beta2) * g.square() for name, g in grads.items()}
    # 1 - beta^count by expm1: in float32 the plain form loses five digits at the first update.
    mu_scale = -torch.expm1(state.count * math.log(beta1)) if beta1 else torch.ones(())
    nu_scale = (-torch.expm1(state.count * math.log(beta2))).sqrt()
    moved = {
        name: p - options.lr / mu_scale * mu[name] / (nu[name].sqrt() / nu_scale + eps) for name, p in params.items()
    }
    return moved, OptimState(mu, nu, state.count)


def _sgd(params: Params, grads: Params, state: OptimState, options: OptimOptions) -> tuple[Params, OptimState]:
    velocity = {name: options.momentum * state.mu[name] + g for name, g in grads.items()}
    if options.nesterov:
        direction = {name: grads[name] + options.momentum * v for name, v in velocity.items()}
    else:
        direction = velocity
    moved = {name: p - options.lr * direction[name] for name, p in params.items()}
    return moved, OptimState(velocity, state.nu, state.count)
