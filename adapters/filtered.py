"""Entropy learning on filtered images: the steps that ETA, EATA and RDumb share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import CopyStates, Forward, Learned, Net, NormState, Params, PartState
from adapters.descent import Learning, descend, descend_where, observe_gradient, start
from adapters.functional.optim import OptimOptions
from adapters.functional.selection import Selection, default_d_margin, select, weighted_entropy
from adapters.options import option
from adapters.state import flatten, where


@dataclass(frozen=True)
class FilteredState(PartState):
    """Learned parameters; moving mean (C,) of selected outputs; () whether it holds any."""

    learning: Learning
    mean_probabilities: Tensor
    seen: Tensor


@dataclass(frozen=True, kw_only=True)
class FilterOptions(OptimOptions):
    """Thresholds of the two filters, and the optimizer."""

    e_margin: float = option(0.4, "reliable: entropy below this share of ln(classes)", low=0.0, high=1.0)
    d_margin: float | None = option(
        None, "new: |cosine| to the mean output below this; 1.3 / sqrt(classes)", low=0.0, high=1.0
    )


@dataclass(frozen=True)
class ReturningState(PartState):
    """What is learned, and () how many steps were taken."""

    filtered: FilteredState
    count: Tensor


def init_returning(net: Net, options: FilterOptions) -> ReturningState:
    """Return the fresh state, and a count of 0."""
    return ReturningState(init(net, options), torch.zeros((), dtype=torch.int64))


def init(net: Net, options: FilterOptions) -> FilteredState:
    """Return the source's norm parameters, zero moments and no mean output yet."""
    return FilteredState(
        start(net.affine, options), torch.zeros(net.classes, dtype=net.dtype), torch.zeros((), dtype=torch.bool)
    )


def step(
    net: Net, state: FilteredState, norm: CopyStates, x: Tensor, options: FilterOptions, pull: Params
) -> Learned[FilteredState]:
    """Descend the weighted entropy of the selected images of x (N, ...); nothing selected, nothing moved.

    `pull` is the gradient of a penalty on the parameters, added to that of the entropy; empty for none.

    Where the network lets images be picked out of the batch, only the selected ones are run again for the gradient;
    elsewhere the gradient is that of the whole batch, with the others masked. Both are the same to rounding.
    """
    way = _gathered if net.separable else _masked
    forward, observed, selection, learning = way(net, state, norm["student"], x, options, pull)
    moved = FilteredState(learning, selection.mean_probabilities, selection.seen)
    return Learned(forward, moved, {"student": observed}, {"selected_ratio": selection.mask.float().mean()})


def returning_step(
    net: Net, state: ReturningState, norm: CopyStates, x: Tensor, options: FilterOptions, every: int
) -> Learned[ReturningState]:
    """Start again if it is time (every so many steps: parameters, moments, mean output, statistics), then step."""
    due = state.count % every == 0
    fresh = where(due, init(net, options), state.filtered)
    norms = {"student": where(due, net.initial_norm, norm["student"])}
    learned = step(net, fresh, norms, x, options, pull={})
    after = ReturningState(learned.state, state.count + 1)
    return Learned(learned.forward, after, learned.norm, learned.signals)


def _masked(
    net: Net, state: FilteredState, norm: NormState, x: Tensor, options: FilterOptions, pull: Params
) -> tuple[Forward, NormState, Selection, Learning]:
    """Descend by the gradient of the whole batch, with the weight of images that are not selected at 0."""

    def filtered_entropy(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
        selection = _selection(net, state, forward, options)
        return selection.loss, flatten(selection)

    grads, selected, forward, observed = observe_gradient(net, state.learning.params, norm, x, filtered_entropy)
    selection = Selection(**selected)
    learning = descend_where(selection.mask.any(), state.learning, _pulled(grads, pull), options)
    return forward, observed, selection, learning


def _gathered(
    net: Net, state: FilteredState, norm: NormState, x: Tensor, options: FilterOptions, pull: Params
) -> tuple[Forward, NormState, Selection, Learning]:
    """Answer without a graph, then descend by a second pass over the selected images alone; none selected, no pass."""
    params = state.learning.params
    forward, observed = net.observe(params, norm, x)
    selection = _selection(net, state, forward, options)
    if not bool(selection.mask.any()):
        return forward, observed, selection, state.learning
    chosen, e_margin = x[selection.mask], _e_margin(net, options)

    def entropy(learned: Params) -> tuple[Tensor, tuple[()]]:
        return weighted_entropy(net.again(learned, norm, observed, chosen).logits, e_margin), ()

    grads, _ = net.gradient(entropy, params)
    return forward, observed, selection, descend(state.learning, _pulled(grads, pull), options)


def _selection(net: Net, state: FilteredState, forward: Forward, options: FilterOptions) -> Selection:
    d_margin = default_d_margin(net.classes) if options.d_margin is None else options.d_margin
    return select(forward.logits, state.mean_probabilities, state.seen, _e_margin(net, options), d_margin)


def _e_margin(net: Net, options: FilterOptions) -> float:
    return options.e_margin * math.log(net.classes)


def _pulled(grads: Params, pull: Params) -> Params:
    return {name: g + pull[name] if name in pull else g for name, g in grads.items()}
