"""Takes one step of several streams in a single pass of the network, over the weights that they share."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from adapters.adapter import AdapterState
from adapters.base import JointLearner
from adapters.network.module_net import ModuleNet
from adapters.network.streams_net import Together
from adapters.pipeline import Fit, Pipeline, PipelineState
from adapters.state import flatten, rebuild, stacked, unstacked
from adapters.values import Noise, StepOutput

Stepped: TypeAlias = tuple[StepOutput, AdapterState]


def joint_learner(pipeline: Pipeline, fit: Fit) -> JointLearner[Any] | None:
    """Return the learner if it steps several streams with one batched pass (`of_streams`); None if vmap does."""
    learner = pipeline.learner
    if not isinstance(learner, JointLearner):
        return None
    by_stream = fit.net.separable and fit.net.learns_by_stream
    return learner if by_stream or not learner.needs.gradient else None


def step_together(
    pipeline: Pipeline, fit: Fit, states: Sequence[AdapterState], xs: Sequence[Tensor], net: ModuleNet | None = None
) -> list[Stepped]:
    """Step several streams with one pass over the network.

    Streams share only the weights: each gets the answer and state of a step of its own, up to rounding. NaN in one
    stream's inputs does not reach another stream.

    Args:
        pipeline: The pipeline of all streams; `pure_graph` must be true.
        fit: The pipeline fitted to the model.
        states: Each stream's state, left unchanged.
        xs: Each stream's batch (N, *input_shape), all of one shape.
        net: A network to use for these streams in place of the fitted one's, if there is a `joint_learner`.

    Returns:
        Answer and new state of each stream. Tensors own their memory, and tensors that a step leaves unchanged are
        those of the old state, so that one stream's state never keeps another's alive.
    """
    x, learner = torch.stack(list(xs)), joint_learner(pipeline, fit)
    if learner is None:
        return _by_vmap(pipeline, fit, states, x)
    return _around_one_pass(pipeline, learner, net or fit.net.of_streams(x.shape[1]), states, x)


@torch.no_grad()
def _around_one_pass(
    pipeline: Pipeline, learner: JointLearner[Any], net: ModuleNet, states: Sequence[AdapterState], x: Tensor
) -> list[Stepped]:
    """Let the learner step all streams on x (S, N, ...) together, then adjust each stream's outputs."""
    own = [state for state in states if isinstance(state, PipelineState)]
    learners, norms = [state.learner for state in own], [state.norm for state in own]
    learned = learner.step_together(Together(net, x.shape[1]), learners, norms, x)
    return [pipeline.finished(state, each) for state, each in zip(own, learned, strict=True)]


def _by_vmap(pipeline: Pipeline, prepared: Fit, states: Sequence[AdapterState], x: Tensor) -> list[Stepped]:
    befores = [flatten(state) for state in states]

    def kernel(tensors: Mapping[str, Tensor], x: Tensor, noise: Noise) -> tuple[dict[str, Tensor], ...]:
        before: PipelineState = rebuild(prepared.initial, tensors)
        output, after = pipeline.kernel(prepared, before, x, noise)
        changed = {name: tensor for name, tensor in flatten(after).items() if tensor is not tensors[name]}
        return {"logits": output.logits, "probabilities": output.probabilities}, dict(output.signals), changed

    together = torch.vmap(kernel)(stacked(befores), x, stacked(_noises(pipeline, states, x.shape[1:])))
    answers, signals, changes = (unstacked(tensors, len(x)) for tensors in together)
    return [
        (StepOutput(answer["logits"], answer["probabilities"], signal), rebuild(state, {**before, **changed}))
        for state, before, answer, signal, changed in zip(states, befores, answers, signals, changes, strict=True)
    ]


def _noises(pipeline: Pipeline, states: Sequence[AdapterState], shape: torch.Size) -> list[Noise]:
    """Draw for each stream the random numbers of its own step, for a batch of this shape."""
    return [pipeline.learner.draw(int(state.seed), int(state.steps), shape) for state in states]
