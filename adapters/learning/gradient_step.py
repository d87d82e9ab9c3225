"""One gradient step on chosen parameters; every gradient learner uses it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from adapters.base import Net
from adapters.functional import optim
from adapters.state import flatten, rebuild, where
from adapters.values import Forward, Imitated, NormState, Params, PartState, Tensors


@dataclass(frozen=True)
class Learning(PartState):
    """Learned parameters by name, and the optimizer's moments."""

    params: Params
    optimizer: optim.OptimState


@dataclass(frozen=True)
class Passed:
    """A loss (), the forward pass that observed the batch, its new statistics, and other tensors by name."""

    loss: Tensor
    forward: Forward
    norm: NormState
    other: Mapping[str, Tensor] = field(default_factory=dict)


def start(params: Params, options: optim.OptimOptions) -> Learning:
    """Return the state with these parameters and zero moments."""
    return Learning(params, optim.init(params, options))


def observe_gradient(
    net: Net,
    params: Params,
    norm: NormState,
    x: Tensor,
    loss: Callable[[Forward], tuple[Tensor, Mapping[str, Tensor]]],
) -> tuple[Params, Mapping[str, Tensor], Forward, NormState]:
    """Observe x (N, ...) and differentiate a loss of that forward pass.

    Args:
        net: The network.
        params: The parameters at which to differentiate.
        norm: The statistics before this batch.
        x: Inputs (N, ...).
        loss: Maps a forward pass to (scalar loss, other tensors by name).

    Returns:
        Gradients by name, the other tensors of the loss, the forward pass, and the new statistics.
    """

    def run(learned: Params) -> Passed:
        forward, observed = net.observe(learned, norm, x)
        value, other = loss(forward)
        return Passed(value, forward, observed, other)

    return joint_gradient(net, params, norm, run)


def imitate(net: Net, params: Params, norm: NormState, x: Tensor, target: Tensor) -> Imitated:
    """Observe x (N, ...) and differentiate its cross-entropy with target probabilities (N, C) at params."""

    def cross_entropy(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
        return -(target * forward.logits.log_softmax(1)).sum(1).mean(), {}

    grads, _, forward, observed = observe_gradient(net, params, norm, x, cross_entropy)
    return Imitated(grads, forward, observed)


def joint_gradient(
    net: Net, params: Params, norm: NormState, run: Callable[[Params], Passed]
) -> tuple[Params, Mapping[str, Tensor], Forward, NormState]:
    """Differentiate a loss of several forward passes, one of them observing.

    Args:
        net: The network.
        params: The parameters at which to differentiate.
        norm: The statistics before this batch.
        run: Runs the passes with given parameters and returns their result.

    Returns:
        Gradients by name, the other tensors of the loss, the observing pass, and the new statistics.
    """

    def of_params(learned: Params) -> tuple[Tensor, tuple[Tensors, ...]]:
        passed = run(learned)
        return passed.loss, (dict(passed.other), flatten(passed.norm), _tensors(passed.forward))

    grads, (other, observed, forward) = net.gradient(of_params, params)
    return grads, other, Forward(forward["logits"], forward["features"], forward.get("drift")), rebuild(norm, observed)


def forward_gradient(
    net: Net,
    params: Params,
    norm: NormState,
    x: Tensor,
    loss: Callable[[Forward], tuple[Tensor, Mapping[str, Tensor]]],
) -> tuple[Params, Mapping[str, Tensor]]:
    """Differentiate a loss of a pass that only reads statistics; return gradients and the loss's other tensors."""

    def of_params(learned: Params) -> tuple[Tensor, tuple[Tensors, ...]]:
        value, other = loss(net.forward(learned, norm, x))
        return value, (dict(other),)

    grads, (other,) = net.gradient(of_params, params)
    return grads, other


def descend(state: Learning, grads: Params, options: optim.OptimOptions) -> Learning:
    """Take one optimizer step."""
    params, optimizer = optim.update(state.params, grads, state.optimizer, options)
    return Learning(params, optimizer)


def descend_where(condition: Tensor, state: Learning, grads: Params, options: optim.OptimOptions) -> Learning:
    """Take one optimizer step if `condition` () is true; otherwise return the state unchanged.

    A step with a zero gradient would still change Adam's moments and parameters.
    """
    return where(condition, descend(state, grads, options), state)


def _tensors(forward: Forward) -> dict[str, Tensor]:
    return {name: value for name, value in vars(forward).items() if value is not None}
