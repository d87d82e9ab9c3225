"""An adapter that runs one of several pipelines at a time, and chooses among them by what its stream looks like."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from adapters.adapter import AdapterOf, AdapterState, Prepared, Spec
from adapters.base import Part, PartState, StepOutput
from adapters.errors import UnfitModelError
from adapters.monitors import label_runs, moving_mean, page_hinkley
from adapters.monitors.label_runs import RunsState
from adapters.monitors.moving_mean import MeanState
from adapters.monitors.page_hinkley import PageHinkleyOptions, PageHinkleyState
from adapters.options import Options
from adapters.pipeline import Fit, Pipeline, PipelineState
from adapters.source import SourceModel

LEAST_DISTANCE = 1e-6


@dataclass(frozen=True)
class Diagnosis(PartState):
    """What is known of a stream.

    Attributes:
        batch: Mean images per request.
        distance: Mean norm-statistics distance from the source; of weight 0 where it cannot be told.
        entropy: Mean entropy of answers, nats.
        runs: Predicted labels of neighbours.
        detector: Page-Hinkley on the logarithm of the distance.
        images: () int64 images since the start or the last drift event.
        undecided: () whether a decision is due once there are enough images.
        events: () int64 drift events so far.
    """

    batch: MeanState
    distance: MeanState
    entropy: MeanState
    runs: RunsState
    detector: PageHinkleyState
    images: Tensor
    undecided: Tensor
    events: Tensor


@dataclass(frozen=True)
class ChoosingState(AdapterState):
    """Everything a choosing adapter has learned: () int64 the number of the pipeline that runs, and every one's state.

    Pipelines that do not run are in the state before any batch, which shares the model's memory.
    """

    chosen: Tensor
    diagnosis: Diagnosis
    pipelines: Mapping[str, PipelineState]


@dataclass(frozen=True)
class ChoosingFit(Prepared[ChoosingState]):
    """The pipelines by the situation that each is for, those that the model is fit for, with their fits."""

    pipelines: Mapping[str, Pipeline]
    fits: Mapping[str, Fit]

    def running(self, state: ChoosingState) -> str:
        """Return the situation whose pipeline runs."""
        return list(self.pipelines)[int(state.chosen)]


@dataclass(frozen=True)
class Situation:
    """A diagnosis in plain numbers.

    Attributes:
        batch: Mean images per request.
        distance: Mean norm-statistics distance; None where it cannot be told.
        entropy: Mean entropy of answers, as a share of ln(classes).
        excess: Share of repeated labels beyond chance.
        run_length: Mean run of equal predicted labels.
    """

    batch: float
    distance: float | None
    entropy: float
    excess: float
    run_length: float

    def __str__(self) -> str:
        distance = "unknown" if self.distance is None else f"{self.distance:.3f}"
        return (
            f"batches of {self.batch:.0f}, runs of {self.run_length:.1f} equal labels ({self.excess:+.2f} beyond "
            f"chance), norm statistics {distance} from the source's, entropy {self.entropy:.2f} of ln(classes)"
        )


@dataclass(frozen=True)
class Choosing(AdapterOf[ChoosingFit, ChoosingState]):
    """Runs the pipeline for the situation that a stream is in; decides at the start and after each drift event.

    Attributes:
        spec: The selector's name.
        alternatives: For each situation the pipelines for it, best first: a model gets the first that it is fit for.
            The first situation is the one before anything is known.
        decide: Maps what is known to a situation.
        settings: The selector's own options.
        decide_after: Images that a decision rests on.
        detector: Options of the drift detector.
    """

    spec: Spec
    alternatives: Mapping[str, Sequence[Pipeline]]
    decide: Callable[[Situation], str]
    settings: Options
    decide_after: int
    detector: PageHinkleyOptions
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
        zero = torch.zeros((), dtype=torch.int64)
        initial = ChoosingState(
            steps=zero,
            seed=torch.tensor(self.seed, dtype=torch.int64),
            chosen=zero,
            diagnosis=_undiagnosed(source.classes),
            pipelines={situation: fit.initial for situation, fit in fits.items()},
        )
        return ChoosingFit(initial, "; ".join(lacking), pipelines, fits)

    def step(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> tuple[StepOutput, ChoosingState]:
        """Answer x (N, *input_shape) by the running pipeline, learn, and choose the one for the next batch."""
        running = prepared.running(state)
        pipeline, fit = prepared.pipelines[running], prepared.fits[running]
        output, after = pipeline.step(fit, state.pipelines[running], x)
        diagnosis = self._diagnosed(state.diagnosis, output, len(x))
        moved = replace(
            state, steps=state.steps + 1, diagnosis=diagnosis, pipelines={**state.pipelines, running: after}
        )
        if bool(diagnosis.undecided) and int(diagnosis.images) >= self.decide_after:
            moved = self._decided(prepared, moved, running)
        return replace(output, signals={**output.signals, **_signals(moved)}), moved

    def predict(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> StepOutput:
        """Answer x (N, *input_shape) by what the running pipeline remembers."""
        running = prepared.running(state)
        return prepared.pipelines[running].predict(prepared.fits[running], state.pipelines[running], x)

    def probe(self, prepared: ChoosingFit, state: ChoosingState, x: Tensor) -> StepOutput:
        """Answer a batch from another distribution than the stream's by the running pipeline."""
        running = prepared.running(state)
        return prepared.pipelines[running].probe(prepared.fits[running], state.pipelines[running], x)

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
        chosen = f"{running} ({prepared.pipelines[running].spec})"
        if not int(state.steps):
            return f"{chosen}: nothing is known of the stream yet"
        undecided = bool(state.diagnosis.undecided)
        until = f"; decides after {self.decide_after - int(state.diagnosis.images)} more images" if undecided else ""
        return f"{chosen}: {situation_of(state.diagnosis)}{until}"

    def _diagnosed(self, known: Diagnosis, output: StepOutput, images: int) -> Diagnosis:
        distance = output.signals.get("drift", torch.tensor(torch.nan))
        seen, verdict = page_hinkley.update(known.detector, distance.clamp_min(LEAST_DISTANCE).log(), self.detector)
        mean = moving_mean.init() if bool(verdict.changed) else known.distance
        return Diagnosis(
            batch=moving_mean.update(known.batch, torch.tensor(float(images)), images),
            distance=moving_mean.update(mean, distance, images),
            entropy=moving_mean.update(known.entropy, output.signals["entropy"], images),
            runs=label_runs.update(known.runs, output.probabilities.argmax(1)),
            detector=seen,
            images=torch.where(verdict.changed, 0, known.images) + images,
            undecided=known.undecided | verdict.changed,
            events=known.events + verdict.changed,
        )

    def _decided(self, prepared: ChoosingFit, state: ChoosingState, running: str) -> ChoosingState:
        """Choose; a pipeline that begins to run, and the one that stops, are in the state before any batch."""
        situation = self.decide(situation_of(state.diagnosis))
        known = replace(state.diagnosis, undecided=torch.tensor(False))
        if situation == running:
            return replace(state, diagnosis=known)
        number = list(prepared.pipelines).index(situation)
        pipelines = {**state.pipelines, running: prepared.fits[running].initial}
        # Distances differ from pipeline to pipeline: the switch itself must not look like drift.
        known = replace(known, detector=page_hinkley.init(), distance=moving_mean.init())
        return replace(state, chosen=torch.tensor(number), diagnosis=known, pipelines=pipelines)


def situation_of(diagnosis: Diagnosis) -> Situation:
    """Return a diagnosis in plain numbers."""
    known = float(diagnosis.distance.weight) > 0
    return Situation(
        batch=float(diagnosis.batch.mean),
        distance=float(diagnosis.distance.mean) if known else None,
        entropy=float(diagnosis.entropy.mean) / float(torch.tensor(len(diagnosis.runs.counts)).log()),
        excess=float(label_runs.excess(diagnosis.runs)),
        run_length=float(label_runs.run_length(diagnosis.runs)),
    )


def _first_fit(several: Sequence[Pipeline], source: SourceModel) -> tuple[Pipeline, Fit, list[str]]:
    reasons: list[str] = []
    for pipeline in several:
        try:
            return pipeline, pipeline.prepare(source), reasons
        except UnfitModelError as error:
            reasons.append(f"does without {pipeline.spec}: {error}")
    raise UnfitModelError("; ".join(reasons))


def _undiagnosed(classes: int) -> Diagnosis:
    zero = torch.zeros((), dtype=torch.int64)
    mean = moving_mean.init()
    detector = page_hinkley.init()
    return Diagnosis(mean, mean, mean, label_runs.init(classes), detector, zero, torch.tensor(True), zero)


def _signals(state: ChoosingState) -> dict[str, Tensor]:
    known = state.diagnosis
    return {
        "choice": state.chosen.float(),
        "drift_events": known.events.float(),
        "label_excess": label_runs.excess(known.runs),
        "label_run_length": label_runs.run_length(known.runs),
    }


Make: TypeAlias = Callable[[str, Mapping[str, Mapping[str, object]]], Pipeline]
"""Makes a pipeline from a spec and its parts' options."""


class Selector(Part):
    """Picks the pipeline for each stream from what the stream looks like; stands alone in a spec."""

    @abstractmethod
    def adapter(self, make: Make, seed: int) -> Choosing:
        """Return the adapter that picks among the pipelines that `make` makes."""
