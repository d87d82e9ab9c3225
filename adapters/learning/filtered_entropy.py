"""Entropy learning on filtered images; ETA, EATA and RDumb share it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from adapters.base import Learned, Net, StreamsNet
from adapters.functional.optim import OptimOptions
from adapters.functional.selection import Selection, default_d_margin, masked_entropy, select, weighted_entropy
from adapters.learning.gradient_step import Learning, descend, descend_where, observe_gradient, start
from adapters.options import option
from adapters.state import flatten, mapped, part, stacked, unstacked, where
from adapters.values import CopyStates, Forward, NormState, Params, PartState


@dataclass(frozen=True)
class FilteredState(PartState):
    """Learned parameters; moving mean (C,) of selected outputs; () true once an output has entered that mean."""

    learning: Learning
    mean_probabilities: Tensor
    seen: Tensor


@dataclass(frozen=True, kw_only=True)
class FilterOptions(OptimOptions):
    """Options of the optimizer, and the thresholds of the two filters."""

    e_margin: float = option(0.4, "reliable: entropy below this share of ln(classes)", low=0.0, high=1.0)
    d_margin: float | None = option(
        None, "new: |cosine| to the mean output below this; default: 1.3 / sqrt(classes)", low=0.0, high=1.0
    )


@dataclass(frozen=True)
class ReturningState(PartState):
    """The state of the filtered learner, and () the number of steps."""

    filtered: FilteredState
    count: Tensor


def init_returning(net: Net, options: FilterOptions) -> ReturningState:
    """Return the initial state, and a count of 0."""
    return ReturningState(init(net, options), torch.zeros((), dtype=torch.int64))


def init(net: Net | StreamsNet, options: FilterOptions) -> FilteredState:
    """Return the source's norm parameters, zero moments and no mean output yet."""
    return FilteredState(
        start(net.affine, options), torch.zeros(net.classes, dtype=net.dtype), torch.zeros((), dtype=torch.bool)
    )


def step(
    net: Net, state: FilteredState, norm: CopyStates, x: Tensor, options: FilterOptions, pull: Params
) -> Learned[FilteredState]:
    """Descend the weighted entropy of the selected images of x (N, ...); without any, the parameters stay.

    `pull` is the gradient of a penalty on the parameters, added to the gradient of the entropy; empty for no penalty.

    If the network is `separable`, the gradient comes from a second pass over the selected images only; otherwise from
    the whole batch, with the other images masked. Both are equal up to rounding.
    """
    descended = _gathered if net.separable else _masked
    forward, observed, selection, learning = descended(net, state, norm["student"], x, options, pull)
    return _learned(forward, learning, selection, observed)


def returning_step(
    net: Net, state: ReturningState, norm: CopyStates, x: Tensor, options: FilterOptions, every: int
) -> Learned[ReturningState]:
    """Reset parameters, moments, mean output and statistics if the count is a multiple of `every`, then step."""
    due = state.count % every == 0
    fresh = where(due, init(net, options), state.filtered)
    norms = {"student": where(due, net.initial_norm, norm["student"])}
    return counted(step(net, fresh, norms, x, options, pull={}), state)


def counted(learned: Learned[FilteredState], before: ReturningState) -> Learned[ReturningState]:
    """Return the result of a step with the count of steps, increased by one, in its state."""
    return Learned(learned.forward, ReturningState(learned.state, before.count + 1), learned.norm, learned.signals)


def step_together(
    net: StreamsNet, states: Sequence[FilteredState], norms: Sequence[CopyStates], x: Tensor, options: FilterOptions,
    pull: Callable[[Params], Params] = lambda _: {},
) -> list[Learned[FilteredState]]:  # fmt: skip
    """Step S streams at once, each as `step` would; x is (S, N, ...), one batch per stream.

    One pass answers all streams; a second one, over the streams with selected images, computes the gradients. `pull`
    maps learned parameters (s, ...) to the gradient of a penalty on them.
    """
    norm = stacked([each["student"] for each in norms])
    forward, observed = net.observe(stacked([state.learning.params for state in states]), norm, x)
    selections = _selections(net, states, forward, options)
    chosen = [index for index, selection in enumerate(selections) if bool(selection.mask.any())]
    learnings = [state.learning for state in states]
    if chosen:
        some = stacked([learnings[index] for index in chosen])
        masks = torch.stack([selections[index].mask for index in chosen])
        e_margin = _e_margin(net, options)

        def entropy(learned: Params) -> tuple[Tensor, tuple[()]]:
            again = net.again(learned, part(norm, chosen), part(observed, chosen), x[chosen])
            return torch.vmap(partial(masked_entropy, e_margin=e_margin))(again.logits, masks).sum(), ()

        grads, _ = net.gradient(entropy, some.params)
        moved = mapped(lambda state, grads: descend(state, grads, options), some, _pulled(grads, pull(some.params)))
        for index, learning in zip(chosen, unstacked(moved, len(chosen)), strict=True):
            learnings[index] = learning
    parts = zip(forward.by_stream(), learnings, selections, unstacked(observed, len(x)), strict=True)
    return [_learned(own, learning, selection, norm) for own, learning, selection, norm in parts]


def returning_step_together(
    net: StreamsNet, states: Sequence[ReturningState], norms: Sequence[CopyStates], x: Tensor, options: FilterOptions,
    every: int,
) -> list[Learned[ReturningState]]:  # fmt: skip
    """Take a `returning_step` of S streams at once; x is (S, N, ...), one batch per stream."""
    fresh = init(net, options)
    due = [int(state.count) % every == 0 for state in states]
    starts = [fresh if reset else state.filtered for reset, state in zip(due, states, strict=True)]
    start_norms = [{"student": net.initial_norm} if reset else norm for reset, norm in zip(due, norms, strict=True)]
    learned = step_together(net, starts, start_norms, x, options)
    return [counted(each, state) for each, state in zip(learned, states, strict=True)]


def _masked(
    net: Net, state: FilteredState, norm: NormState, x: Tensor, options: FilterOptions, pull: Params
) -> tuple[Forward, NormState, Selection, Learning]:
    """Descend with the gradient of the whole batch; images that are not selected have weight 0."""

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
    """Answer without a gradient, then descend with a second pass over the selected images, if there are any."""
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


def _learned(forward: Forward, learning: Learning, selection: Selection, observed: NormState) -> Learned[FilteredState]:
    moved = FilteredState(learning, selection.mean_probabilities, selection.seen)
    return Learned(forward, moved, {"student": observed}, {"selected_ratio": selection.mask.float().mean()})


def _selection(net: Net, state: FilteredState, forward: Forward, options: FilterOptions) -> Selection:
    return select(forward.logits, state.mean_probabilities, state.seen, *_margins(net, options))


def _selections(
    net: StreamsNet, states: Sequence[FilteredState], forward: Forward, options: FilterOptions
) -> list[Selection]:
    """Filter each stream's images with its own state; `forward` holds those of all streams (S, N, ...)."""
    means = torch.stack([state.mean_probabilities for state in states])
    seen = torch.stack([state.seen for state in states])
    e_margin, d_margin = _margins(net, options)
    selecting = partial(select, e_margin=e_margin, d_margin=d_margin)
    return unstacked(mapped(selecting, forward.logits, means, seen), len(states))


def _margins(net: Net | StreamsNet, options: FilterOptions) -> tuple[float, float]:
    d_margin = default_d_margin(net.classes) if options.d_margin is None else options.d_margin
    return _e_margin(net, options), d_margin


def _e_margin(net: Net | StreamsNet, options: FilterOptions) -> float:
    return options.e_margin * math.log(net.classes)


def _pulled(grads: Params, pull: Params) -> Params:
    return {name: g + pull[name] if name in pull else g for name, g in grads.items()}
