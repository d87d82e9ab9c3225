"""An adapter that chooses among several pipelines by measurements of its stream."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from adapters.adapter import AdapterOf, AdapterState, Prepared, Spec
from adapters.base import Part
from adapters.choosing import diagnosis
from adapters.choosing.diagnosis import Diagnosis, Situation, situation_of
from adapters.errors import StateError, UnfitModelError
from adapters.functional.entropy import entropy_of_probabilities
from adapters.monitors import label_correlation, label_runs
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.network.source_observer import Seen, Watch
from adapters.options import Options
from adapters.pipeline import Fit, Pipeline, PipelineState
from adapters.source import SourceModel
from adapters.state import Range
from adapters.values import StepOutput

LEAST_PROBABILITY = 1e-12

Answer: TypeAlias = Callable[[Pipeline, Fit, PipelineState, Tensor], StepOutput]


@dataclass(frozen=True)
class ChoosingState(AdapterState):
    """Everything a choosing adapter has learned.

    Attributes:
        chosen: () int64 number of the chosen situation; -1 before a decision.
        diagnosis: Measurements of the stream.
        seen: The state of the frozen model's observer.
        pipelines: States by situation. A pipeline that does not run has its initial state, which shares the model's
            memory.
    """

    chosen: Tensor
    diagnosis: Diagnosis
    seen: Seen
    pipelines: Mapping[str, PipelineState]

    ranges: ClassVar[Mapping[str, Range]] = {**AdapterState.ranges, "chosen": (-1, 2**53)}

    def check(self) -> None:
        """Refuse the number of a situation that does not exist.

        Raises:
            StateError: If `chosen` is such a number.
        """
        if int(self.chosen) >= len(self.pipelines):
            raise StateError(f"situation {int(self.chosen)} is chosen, but there are only {len(self.pipelines)}")


@dataclass(frozen=True)
class ChoosingFit(Prepared[ChoosingState]):
    """For each situation the pipeline that fits the model, and its fit.

    `answering` maps the number of the chosen situation (-1 before a decision) to the situations whose pipelines answer.
    """

    pipelines: Mapping[str, Pipeline]
    fits: Mapping[str, Fit]
    watch: Watch
    answering: Mapping[int, tuple[str, ...]]

    def running(self, state: ChoosingState) -> tuple[str, ...]:
        """Return the situations whose pipelines answer now."""
        return self.answering[int(state.chosen)]


@dataclass(frozen=True)
class Choosing(AdapterOf[ChoosingFit, ChoosingState]):
    """Runs the pipeline for the stream's situation; decides at the start and after each drift event.

    Before the first decision, and in some situations, several pipelines run and their probabilities are averaged. The
    frozen model observes every request before a decision, and some requests after it. It does not learn, so that its
    measurements also detect a return to the source domain.

    Attributes:
        spec: The selector's name.
        alternatives: Pipelines for each situation, best first; the first that fits the model runs.
        opening: The situations whose pipelines run before the first decision. While a decision is due, the answers of
            the first one are measured, even if other pipelines answer.
        partners: Maps a situation to another one whose pipeline answers together with its own.
        idle: The situation without adaptation: after a drift event in it the opening pipelines run again.
        decide: Maps the measurements to a situation.
        settings: The selector's own options.
        decide_after: Number of images before a decision.
        check_every: After a decision, the frozen model observes one in this many requests.
        detector: Options of the drift detector.
        memory: Time constant of the frozen model's moving moments, in images; the drift detector gets one value per
            this many images.
    """

    spec: Spec
    alternatives: Mapping[str, Sequence[Pipeline]]
    opening: tuple[str, ...]
    partners: Mapping[str, str]
    idle: str
    decide: Callable[[Situation], str]
    settings: Options
    decide_after: int
    check_every: int
    detector: PageHinkleyOptions
    memory: int
    seed: int = 0

    @property
    def pure_graph(self) -> bool:
        """False: which pipeline runs is a branch on data."""
        return False

    @property
    def pipelines(self) -> Sequence[Pipeline]:
        """All pipelines that it may run."""
        return [pipeline for several in self.alternatives.values() for pipeline in several]

    @property
    def draws(self) -> bool:
        """True if steps draw random numbers."""
        return any(pipeline.draws for pipeline in self.pipelines)

    @property
    def options(self) -> Mapping[str, Options]:
        """The selector's options, by its name."""
        return {str(self.spec): self.settings}

    @property
    def holds_inputs(self) -> bool:
        """True if states hold clients' images."""
        return any(pipeline.holds_inputs for pipeline in self.pipelines)

    def prepare(self, source: SourceModel) -> ChoosingFit:
        """Fit, for each situation, the best pipeline that works on the model.

        Raises:
            UnfitModelError: If no pipeline of a situation works.
        """
        pipelines, fits, lacking = {}, {}, []
        for situation, several in self.alternatives.items():
            pipelines[situation], fits[situation], reasons = _first_fit(several, source)
            lacking += [reason for reason in reasons if reason not in lacking]
        watch = Watch(source, self.memory)
        initial = ChoosingState(
            steps=torch.zeros((), dtype=torch.int64),
            seed=torch.tensor(self.seed, dtype=torch.int64),
            chosen=torch.tensor(-1),
            diagnosis=diagnosis.init(source.classes),
            seen=watch.initial,
            pipelines={situation: fit.initial for situation, fit in fits.items()},
        )
        answering = {number: self._together(situation) for number, situation in enumerate(pipelines)}
        return ChoosingFit(initial, "; ".join(lacking), pipelines, fits, watch, {-1: self.opening, **answering})

    def step(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> tuple[StepOutput, ChoosingState]:
        """Answer x (N, *input_shape) with the running pipelines, learn, and choose the pipelines for the next batch."""
        running = prepared.running(state)
        outputs, pipelines = {}, dict(state.pipelines)
        measured = self.opening[0] if bool(state.diagnosis.undecided) else running[0]
        for name in dict.fromkeys((*running, measured)):
            outputs[name], pipelines[name] = prepared.pipelines[name].step(prepared.fits[name], pipelines[name], x)
        found = diagnosis.answered(state.diagnosis, outputs[measured].probabilities)
        seen = state.seen
        if bool(found.undecided) or int(state.steps) % self.check_every == 0:
            look, seen = prepared.watch.look(seen, x)
            found = diagnosis.looked(found, look, len(x), self.detector, self.memory)
        if found.events > state.diagnosis.events:  # the moving moments are those of images before the drift
            seen = prepared.watch.initial
        chosen = torch.tensor(-1) if bool(found.undecided) and running == (self.idle,) else state.chosen
        moved = replace(state, steps=state.steps + 1, chosen=chosen, diagnosis=found, seen=seen, pipelines=pipelines)
        if bool(found.undecided) and int(found.images) >= self.decide_after:
            moved = self._decided(prepared, moved)
        output = _averaged([outputs[name] for name in running])
        return replace(output, signals={**output.signals, **_signals(moved)}), moved

    def predict(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> StepOutput:
        """Answer x (N, *input_shape) with the running pipelines under their current states."""
        return self._mean_answer(prepared, state, x, Pipeline.predict)

    def probe(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> StepOutput:
        """Answer a batch from another distribution than the stream's with the running pipelines."""
        return self._mean_answer(prepared, state, x, Pipeline.probe)

    def without_inputs(self, prepared: ChoosingFit, state: ChoosingState) -> ChoosingState:
        """Return the state without the images that pipelines' learners hold."""
        emptied = {
            situation: pipeline.without_inputs(prepared.fits[situation], state.pipelines[situation])
            for situation, pipeline in prepared.pipelines.items()
        }
        return replace(state, pipelines=emptied)

    def explain(self, prepared: ChoosingFit, state: ChoosingState) -> str:
        """Return which pipeline runs, and why."""
        running = prepared.running(state)
        specs = " and ".join(str(prepared.pipelines[name].spec) for name in running)
        answers = specs if len(running) == 1 else f"the mean of {specs}"
        chosen = f"{running[0] if int(state.chosen) >= 0 else 'opening'} ({answers})"
        if not int(state.steps):
            return f"{chosen}: nothing is known of the stream yet"
        undecided = bool(state.diagnosis.undecided)
        until = f"; decides after {self.decide_after - int(state.diagnosis.images)} more images" if undecided else ""
        return f"{chosen}: {situation_of(state.diagnosis)}{until}"

    def _mean_answer(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor, answer: Answer) -> StepOutput:
        running = prepared.running(state)
        return _averaged(
            [answer(prepared.pipelines[each], prepared.fits[each], state.pipelines[each], x) for each in running]
        )

    def _together(self, situation: str) -> tuple[str, ...]:
        return (situation, self.partners[situation]) if situation in self.partners else (situation,)

    def _decided(self, prepared: ChoosingFit, state: ChoosingState) -> ChoosingState:
        """Choose a situation; pipelines that stop return to their initial state."""
        situation = self.decide(situation_of(state.diagnosis))
        ran = {*prepared.running(state), self.opening[0]} - {*self._together(situation)}
        stopped = {name: prepared.fits[name].initial for name in ran}
        return replace(
            state,
            chosen=torch.tensor(list(prepared.pipelines).index(situation)),
            diagnosis=replace(state.diagnosis, undecided=torch.tensor(False)),
            pipelines={**state.pipelines, **stopped},
        )


def _first_fit(several: Sequence[Pipeline], source: SourceModel) -> tuple[Pipeline, Fit, list[str]]:
    reasons: list[str] = []
    for pipeline in several:
        try:
            return pipeline, pipeline.prepare(source), reasons
        except UnfitModelError as error:
            reasons.append(f"does without {pipeline.spec}: {error}")
    raise UnfitModelError("; ".join(reasons))


def _averaged(outputs: Sequence[StepOutput]) -> StepOutput:
    """Return the mean of the answers; a single answer is returned unchanged."""
    if len(outputs) == 1:
        return outputs[0]
    probabilities = torch.stack([output.probabilities for output in outputs]).mean(0)
    signals = {**outputs[0].signals, "entropy": entropy_of_probabilities(probabilities).mean()}
    return StepOutput(probabilities.clamp_min(LEAST_PROBABILITY).log(), probabilities, signals)


def _signals(state: ChoosingState) -> dict[str, Tensor]:
    found = state.diagnosis
    signals = {
        "choice": state.chosen.float(),
        "drift_events": found.events.float(),
        "label_correlation": label_correlation.correlation(found.correlation),
        "label_run_length": label_runs.run_length(found.runs),
    }
    return signals if float(found.distance) < 0 else {**signals, "source_distance": found.distance}


Make: TypeAlias = Callable[[str, Mapping[str, Mapping[str, object]]], Pipeline]
"""Makes a pipeline from a spec and its parts' options."""


class Selector(Part):
    """Picks the pipeline for each stream from measurements of the stream; stands alone in a spec."""

    @abstractmethod
    def adapter(self, make: Make, seed: int) -> Choosing:
        """Return an adapter that chooses among pipelines; `make` builds them."""
