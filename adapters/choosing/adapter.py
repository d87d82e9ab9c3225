"""An adapter that runs one of several pipelines at a time, and chooses among them by what its stream looks like."""

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

Ask: TypeAlias = Callable[[Pipeline, Fit, PipelineState, Tensor], StepOutput]


@dataclass(frozen=True)
class ChoosingState(AdapterState):
    """Everything a choosing adapter has learned: () int64 the situation's number, -1 before one is chosen, and states.

    Pipelines that do not run are in the state before any batch, which shares the model's memory. `seen` is what the
    frozen model remembers.
    """

    chosen: Tensor
    diagnosis: Diagnosis
    seen: Seen
    pipelines: Mapping[str, PipelineState]

    ranges: ClassVar[Mapping[str, Range]] = {**AdapterState.ranges, "chosen": (-1, 2**53)}

    def check(self) -> None:
        """Refuse the number of a situation that there is not.

        Raises:
            StateError: If it is one.
        """
        if int(self.chosen) >= len(self.pipelines):
            raise StateError(f"situation {int(self.chosen)} is chosen, of {len(self.pipelines)}")


@dataclass(frozen=True)
class ChoosingFit(Prepared[ChoosingState]):
    """The pipelines by the situation that each is for, those that the model is fit for, with their fits.

    `answering` holds the situations whose pipelines answer, by the number of the chosen one, -1 before a decision.
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
    """Runs the pipeline for the situation that a stream is in; decides at the start and after each drift event.

    Before the first decision, and in some situations, pipelines run side by side, and their probabilities are
    averaged. The frozen model sees every request before a decision, and some after it: what it finds does not depend
    on what has been learned, so that a return to the source's own domain is seen too.

    Attributes:
        spec: The selector's name.
        alternatives: For each situation the pipelines for it, best first: a model gets the first that it is fit for.
        opening: The situations whose pipelines run before anything is known. The first one's answers are watched as
            long as a decision is due, whatever answers.
        beside: Situations whose pipeline answers together with that of another situation.
        idle: The situation whose pipeline does nothing: after a drift event such a stream is opened anew.
        decide: Maps what is known to a situation.
        settings: The selector's own options.
        decide_after: Images that a decision rests on.
        check_every: Requests from one look by the frozen model to the next, once it is decided.
        detector: Options of the drift detector.
        memory: Images that the frozen model's memory fades over; each value that the detector hears rests on as many.
    """

    spec: Spec
    alternatives: Mapping[str, Sequence[Pipeline]]
    opening: tuple[str, ...]
    beside: Mapping[str, str]
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
        """All that it may run."""
        return [pipeline for several in self.alternatives.values() for pipeline in several]

    @property
    def draws(self) -> bool:
        """Whether steps draw random numbers."""
        return any(pipeline.draws for pipeline in self.pipelines)

    @property
    def options(self) -> Mapping[str, Options]:
        """The selector's options, by its name."""
        return {str(self.spec): self.settings}

    @property
    def holds_inputs(self) -> bool:
        """Whether states hold images that were sent."""
        return any(pipeline.holds_inputs for pipeline in self.pipelines)

    def prepare(self, source: SourceModel) -> ChoosingFit:
        """Fit, for each situation, the best pipeline that the model is fit for.

        Raises:
            UnfitModelError: If there is none for a situation.
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
        """Answer x (N, *input_shape) by what runs, learn, and choose what runs for the next batch."""
        running = prepared.running(state)
        outputs, pipelines = {}, dict(state.pipelines)
        listener = self.opening[0] if bool(state.diagnosis.undecided) else running[0]
        for name in dict.fromkeys((*running, listener)):
            outputs[name], pipelines[name] = prepared.pipelines[name].step(prepared.fits[name], pipelines[name], x)
        known = diagnosis.answered(state.diagnosis, outputs[listener].probabilities)
        seen = state.seen
        if bool(known.undecided) or int(state.steps) % self.check_every == 0:
            look, seen = prepared.watch.look(seen, x)
            known = diagnosis.looked(known, look, len(x), self.detector, self.memory)
        if known.events > state.diagnosis.events:  # what the frozen model remembers is of before
            seen = prepared.watch.initial
        chosen = torch.tensor(-1) if bool(known.undecided) and running == (self.idle,) else state.chosen
        moved = replace(state, steps=state.steps + 1, chosen=chosen, diagnosis=known, seen=seen, pipelines=pipelines)
        if bool(known.undecided) and int(known.images) >= self.decide_after:
            moved = self._decided(prepared, moved)
        output = _averaged([outputs[name] for name in running])
        return replace(output, signals={**output.signals, **_signals(moved)}), moved

    def predict(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> StepOutput:
        """Answer x (N, *input_shape) by what the running pipelines remember."""
        return self._asked(prepared, state, x, Pipeline.predict)

    def probe(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> StepOutput:
        """Answer a batch from another distribution than the stream's by the running pipelines."""
        return self._asked(prepared, state, x, Pipeline.probe)

    def without_inputs(self, prepared: ChoosingFit, state: ChoosingState) -> ChoosingState:
        """Return a state without the images that any pipeline's learner holds."""
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

    def _asked(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor, ask: Ask) -> StepOutput:
        running = prepared.running(state)
        return _averaged(
            [ask(prepared.pipelines[each], prepared.fits[each], state.pipelines[each], x) for each in running]
        )

    def _together(self, situation: str) -> tuple[str, ...]:
        return (situation, self.beside[situation]) if situation in self.beside else (situation,)

    def _decided(self, prepared: ChoosingFit, state: ChoosingState) -> ChoosingState:
        """Choose; what stops, and what begins and has not run yet, are in the state before any batch."""
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
    """Return the mean answer; of one answer that one."""
    if len(outputs) == 1:
        return outputs[0]
    probabilities = torch.stack([output.probabilities for output in outputs]).mean(0)
    signals = {**outputs[0].signals, "entropy": entropy_of_probabilities(probabilities).mean()}
    return StepOutput(probabilities.clamp_min(LEAST_PROBABILITY).log(), probabilities, signals)


def _signals(state: ChoosingState) -> dict[str, Tensor]:
    known = state.diagnosis
    signals = {
        "choice": state.chosen.float(),
        "drift_events": known.events.float(),
        "label_correlation": label_correlation.correlation(known.correlation),
        "label_run_length": label_runs.run_length(known.runs),
    }
    return signals if float(known.distance) < 0 else {**signals, "source_distance": known.distance}


Make: TypeAlias = Callable[[str, Mapping[str, Mapping[str, object]]], Pipeline]
"""Makes a pipeline from a spec and its parts' options."""


class Selector(Part):
    """Picks the pipeline for each stream from what the stream looks like; stands alone in a spec."""

    @abstractmethod
    def adapter(self, make: Make, seed: int) -> Choosing:
        """Return the adapter that picks among the pipelines that `make` makes."""
