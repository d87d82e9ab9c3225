"""Entropy learning on filtered images: the steps that ETA, EATA and RDumb share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import CopyStates, Forward, Learned, Net, Params, PartState
from adapters.descent import Learning, descend_where, observe_gradient, start
from adapters.functional.optim import OptimOptions
from adapters.functional.selection import Selection, default_d_margin, select
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
    """
    e_margin = options.e_margin * math.log(net.classes)
    d_margin = default_d_margin(net.classes) if options.d_margin is None else options.d_margin

    def filtered_entropy(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
        selection = select(forward.logits, state.mean_probabilities, state.seen, e_margin, d_margin)
        return selection.loss, flatten(selection)

    params, observed_before = state.learning.params, norm["student"]
    grads, selected, forward, observed = observe_gradient(net, params, observed_before, x, filtered_entropy)
    selection = Selection(**selected)
    pulled = {name: g + pull[name] if name in pull else g for name, g in grads.items()}
    learning = descend_where(selection.mask.any(), state.learning, pulled, options)
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
