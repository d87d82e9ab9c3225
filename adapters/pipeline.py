"""normalizer + learner + output = one adapter: pure functions from (state, batch) to (answer, new state)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adapters.base import (
    CopyStates,
    Forward,
    Learner,
    Noise,
    Normalizer,
    OutputAdjuster,
    Part,
    PartState,
    Run,
    StepOutput,
)
from adapters.functional.entropy import entropy_of_probabilities
from adapters.net import ModuleNet
from adapters.source import SourceImages, SourceModel


@dataclass(frozen=True)
class Spec:
    """The three part names of a pipeline; as text, what is `none` is left out."""

    normalizer: str
    learner: str
    output: str

    def __str__(self) -> str:
        return "+".join([self.normalizer, *(name for name in (self.learner, self.output) if name != "none")])


@dataclass(frozen=True)
class AdapterState:
    """Everything a pipeline has learned: one immutable value.

    Attributes:
        steps: () int64, learning steps taken; with `seed` it decides every random draw.
        seed: () int64.
        norm: Statistics by network copy and layer.
        learner: What the learner remembers.
        output: What the output adjuster remembers.
    """

    steps: Tensor
    seed: Tensor
    norm: CopyStates
    learner: PartState
    output: PartState


@dataclass(frozen=True)
class Prepared:
    """An adapter fitted to a model.

    Attributes:
        net: A module tree that shares the model's weights.
        initial: The state before any batch.
        degraded: What the parts do without, since the model lacks a source artefact; "" if nothing.
    """

    net: ModuleNet
    initial: AdapterState
    degraded: str = ""


@dataclass(frozen=True)
class Adapter:
    """A pipeline. Made by `create`; holds options only, so that one serves any number of streams.

    `added` normalises the layers that a learner adds to the network.
    """

    spec: Spec
    normalizer: Normalizer[Any]
    learner: Learner[Any]
    output: OutputAdjuster[Any]
    added: Normalizer[Any]
    seed: int = 0

    @property
    def pure_graph(self) -> bool:
        """Whether `kernel` has no Python branch on data, so that it can be vmapped and exported."""
        return self.normalizer.pure_graph and self.learner.pure_graph and self.output.pure_graph

    def prepare(self, source: SourceModel) -> Prepared:
        """Fit the pipeline to a model, which is not touched.

        Raises:
            UnfitModelError: If the model lacks what a part needs; the message says what.
        """
        fitting = source.fitted_to(self.normalizer.name)
        for part in self.parts:
            part.check(fitting)
        net = self._fit(fitting)
        degraded = "; ".join(filter(None, (part.degraded(fitting) for part in self.parts)))
        return Prepared(net, self._initial(net), degraded)

    def calibrate(
        self, source: SourceModel, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Make the learner's source artefact on a model that need not have it yet.

        Args:
            source: The model.
            data: Source images.
            batch: Images per batch; many artefacts depend on it.
            advance: Is told each share of the work done, in all 1.

        Raises:
            UnfitModelError: If the model or the data lack what it takes.
        """
        self.normalizer.check(source)
        net = self._fit(source.fitted_to(self.normalizer.name))
        with torch.no_grad():
            return self.learner.calibrate(net, data, batch, advance)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Normalizer, learner and output adjuster."""
        return self.normalizer, self.learner, self.output

    @property
    def holds_inputs(self) -> bool:
        """Whether states hold images that were sent."""
        return self.learner.holds_inputs

    def without_inputs(self, state: AdapterState) -> AdapterState:
        """Return a state without the images that its learner holds."""
        return replace(state, learner=self.learner.without_inputs(state.learner))

    def init(self, prepared: Prepared) -> AdapterState:
        """Return the state before any batch: what a reset goes back to."""
        return prepared.initial

    def step(self, prepared: Prepared, state: AdapterState, x: Tensor) -> tuple[StepOutput, AdapterState]:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""
        noise = self.learner.draw(int(state.seed), int(state.steps), x.shape)
        return self.kernel(prepared, state, x, noise)

    @torch.no_grad()
    def kernel(
        self, prepared: Prepared, state: AdapterState, x: Tensor, noise: Noise
    ) -> tuple[StepOutput, AdapterState]:
        """Answer and learn, with all random numbers given: deterministic, and for pure_graph parts free of branches."""
        learned = self.learner.step(prepared.net, state.learner, state.norm, x, noise)
        probabilities, output = self.output.adjust(state.output, learned.forward)
        after = AdapterState(state.steps + 1, state.seed, learned.norm, learned.state, output)
        return _answer(learned.forward, probabilities, learned.signals), after

    @torch.no_grad()
    def predict(self, prepared: Prepared, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer x (N, *input_shape) by what the state remembers: no learning, no statistics update.

        Normalizers of batch statistics use those of the last step (the source's before the first), so that an answer
        does not depend on which images share the request.
        """
        forward = self._forward(prepared.net.held, state, x)
        return _answer(forward, self.output.adjust(state.output, forward)[0], {})

    @torch.no_grad()
    def probe(self, prepared: Prepared, state: AdapterState, x: Tensor) -> StepOutput:
        """Answer a batch from another distribution than the stream's, to measure what the parameters have become.

        Normalizers of batch statistics use x's own; the output adjuster is off.
        """
        forward = self._forward(prepared.net.forward, state, x)
        return _answer(forward, forward.logits.softmax(1), {})

    def _fit(self, source: SourceModel) -> ModuleNet:
        network = source.shared_copy()
        own = set(network.modules())
        self.learner.extend(network, source)
        added = {name: module for name, module in network.named_modules() if module not in own}
        return ModuleNet(source, network, self.normalizer, self.seed, added, self.added)

    def _forward(self, run: Run, state: AdapterState, x: Tensor) -> Forward:
        return self.learner.answer(run, state.learner, state.norm, x)

    def _initial(self, net: ModuleNet) -> AdapterState:
        generator = torch.Generator().manual_seed(self.seed)
        return AdapterState(
            steps=torch.zeros((), dtype=torch.int64),
            seed=torch.tensor(self.seed, dtype=torch.int64),
            norm=dict.fromkeys(self.learner.copies, net.initial_norm),
            learner=self.learner.init(net, generator),
            output=self.output.init(net.classes),
        )


def _answer(forward: Forward, probabilities: Tensor, learned: Mapping[str, Tensor]) -> StepOutput:
    signals = {"entropy": entropy_of_probabilities(probabilities).mean(), **learned}
    if forward.drift is not None:
        signals["drift"] = forward.drift
    return StepOutput(forward.logits, probabilities, signals)
