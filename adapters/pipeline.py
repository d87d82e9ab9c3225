"""normalizer + learner + output = one adapter: pure functions from (state, batch) to (answer, new state)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adapters.adapter import AdapterOf, AdapterState, Prepared, Spec
from adapters.base import Learned, Learner, Net, Normalizer, OutputAdjuster, Part
from adapters.functional.entropy import entropy_of_probabilities
from adapters.network.module_net import ModuleNet
from adapters.network.reference_statistics import references
from adapters.options import Options
from adapters.precision import BFLOAT16, FLOAT32, check_bfloat16
from adapters.source import SourceImages, SourceModel
from adapters.values import CopyStates, Forward, Noise, PartState, Run, StepOutput


@dataclass(frozen=True)
class PipelineState(AdapterState):
    """Everything a pipeline has learned.

    Attributes:
        norm: Statistics by network copy and layer.
        learner: The learner's state.
        output: The output adjuster's state.
    """

    norm: CopyStates
    learner: PartState
    output: PartState


@dataclass(frozen=True)
class Fit(Prepared[PipelineState]):
    """A pipeline fitted to a model: `net` is a module tree that shares the model's weights."""

    net: ModuleNet


@dataclass(frozen=True)
class Pipeline(AdapterOf[Fit, PipelineState]):
    """A normalizer, a learner and an output adjuster; `added` normalises the layers that a learner adds."""

    spec: Spec
    normalizer: Normalizer[Any]
    learner: Learner[Any]
    output: OutputAdjuster[Any]
    added: Normalizer[Any]
    seed: int = 0
    precision: str = FLOAT32

    @property
    def pure_graph(self) -> bool:
        """True if `kernel` has no Python branch on data, so that it can be vmapped and exported."""
        return all(part.pure_graph for part in self.parts)

    @property
    def draws(self) -> bool:
        """True if steps draw random numbers."""
        return bool(self.learner.draw(0, 0, torch.Size((1, 1, 1, 1))))

    @property
    def parts(self) -> tuple[Part, ...]:
        """Normalizer, learner and output adjuster."""
        return self.normalizer, self.learner, self.output

    @property
    def options(self) -> Mapping[str, Options]:
        """The options of each part, by part name."""
        return {part.name: part.options for part in self.parts}

    @property
    def holds_inputs(self) -> bool:
        """True if states hold clients' images."""
        return self.learner.holds_inputs

    def prepare(self, source: SourceModel) -> Fit:
        """Fit the pipeline to a model, which is left unchanged.

        Raises:
            UnfitModelError: If the model does not meet the needs of a part; the message names the need.
        """
        fitting = source.fitted_to(self.normalizer.name)
        for part in self.parts:
            part.check(fitting)
        if self.precision == BFLOAT16:
            check_bfloat16(source.opaque)
        net = self._fit(fitting)
        degraded = "; ".join(filter(None, (part.degraded(fitting) for part in self.parts)))
        return Fit(self._initial(net), degraded, net)

    def calibrate(
        self, source: SourceModel, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Make the learner's source artefact on a model that need not have it yet.

        Args:
            source: The model.
            data: Source images.
            batch: Images per batch; many artefacts depend on it.
            advance: Called with each fraction of the work as it is done; the fractions sum to 1.

        Raises:
            UnfitModelError: If the model or the data do not suffice.
        """
        with_artefacts = replace(source, artefacts={name: torch.zeros(()) for name in self.learner.needs.artefacts})
        for part in self.parts:
            part.check(with_artefacts)
        net = self._fit(source.fitted_to(self.normalizer.name))
        with torch.no_grad():
            return self.learner.calibrate(net.pure, data, batch, advance)

    def without_inputs(self, prepared: Fit, state: PipelineState) -> PipelineState:  # noqa: ARG002 - the interface's signature
        """Return the state without the images that its learner holds."""
        return replace(state, learner=self.learner.without_inputs(state.learner))

    def step(self, prepared: Fit, state: PipelineState, x: Tensor) -> tuple[StepOutput, PipelineState]:
        """Answer x (N, *input_shape) and learn from it; `state` is left unchanged."""
        noise = self.learner.draw(int(state.seed), int(state.steps), x.shape)
        return self._step(prepared.net, state, x.to(prepared.net.dtype), noise)

    def kernel(self, prepared: Fit, state: PipelineState, x: Tensor, noise: Noise) -> tuple[StepOutput, PipelineState]:
        """Answer and learn with the random numbers in `noise`: deterministic, and without branches if `pure_graph`.

        Equal to `step` up to rounding: `step` may use other kernels, or differentiate a part of the batch only.
        """
        return self._step(prepared.net.pure, state, x, noise)

    @torch.no_grad()
    def _step(self, net: Net, state: PipelineState, x: Tensor, noise: Noise) -> tuple[StepOutput, PipelineState]:
        return self.finished(state, self.learner.step(net, state.learner, state.norm, x, noise))

    def finished(self, state: PipelineState, learned: Learned[Any]) -> tuple[StepOutput, PipelineState]:
        """Return the answer and the new state from the result of a learning step."""
        probabilities, output = self.output.adjust(state.output, learned.forward)
        after = PipelineState(state.steps + 1, state.seed, learned.norm, learned.state, output)
        return _answer(learned.forward, probabilities, learned.signals), after

    @torch.no_grad()
    def predict(self, prepared: Fit, state: PipelineState, x: Tensor) -> StepOutput:
        """Answer x (N, *input_shape) under the current state, without learning or updating statistics.

        Normalizers of batch statistics use those of the last step (the source's before the first), so that an answer
        does not depend on the other images of the request.
        """
        forward = self._forward(prepared.net.held, state, x.to(prepared.net.dtype))
        return _answer(forward, self.output.adjust(state.output, forward)[0], {})

    @torch.no_grad()
    def probe(self, prepared: Fit, state: PipelineState, x: Tensor) -> StepOutput:
        """Answer a batch from another distribution than the stream's, to measure how good the parameters still are.

        Normalizers of batch statistics use the statistics of x; the output adjuster is off.
        """
        forward = self._forward(prepared.net.forward, state, x.to(prepared.net.dtype))
        return _answer(forward, forward.logits.softmax(1), {})

    def _fit(self, source: SourceModel) -> ModuleNet:
        network = source.shared_copy()
        own, measured = set(network.modules()), references(source, network)
        self.learner.extend(network, source)
        added = {name: module for name, module in network.named_modules() if module not in own}
        return ModuleNet(source, network, self.normalizer, self.seed, added, self.added, self.precision, measured)

    def _forward(self, run: Run, state: PipelineState, x: Tensor) -> Forward:
        return self.learner.answer(run, state.learner, state.norm, x)

    def _initial(self, net: ModuleNet) -> PipelineState:
        generator = torch.Generator().manual_seed(self.seed)
        return PipelineState(
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
