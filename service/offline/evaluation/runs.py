"""One run: an adapter on a model along a plan, and what came of it."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from adapters import Adapter, SourceModel
from adapters.functional import answers
from adapters.source import as_inputs
from adapters.values import StepOutput
from service.offline.evaluation.data import Domains
from service.offline.evaluation.pixels import Integers
from service.offline.evaluation.protocols import Plan

POINTS, IMAGES_PER_POINT = 100, 50
"""A course has at most this many points, each over at least so many images."""

Advance = Callable[[int], None]
"""Is told how many more images are done."""


@dataclass(frozen=True)
class Range:
    """A signal over the batches of a run."""

    least: float
    mean: float
    greatest: float


@dataclass(frozen=True)
class Run:
    """What came of one pass over a plan; errors are in % of the images.

    Attributes:
        seed: The adapter's.
        error: Over all images.
        errors: By domain that the plan shows.
        repetitions: By repetition; one value but for `long`.
        course: Over time, in equal parts of the stream.
        milliseconds: Median time of a step.
        signals: The adapter's signals, by name.
        degraded: What the pipeline did without on this model; "" if nothing.
    """

    seed: int
    error: float
    errors: Mapping[str, float]
    repetitions: tuple[float, ...]
    course: tuple[float, ...]
    milliseconds: float
    signals: Mapping[str, Range]
    degraded: str = ""


def run(adapter: Adapter, source: SourceModel, domains: Domains, plan: Plan, batch: int, advance: Advance) -> Run:
    """Run an adapter along a plan, learning all along; every answer is the one given before or while learning from it.

    Args:
        adapter: From `adapters.create` or `pipelines.read_pipeline`.
        source: The model; need not come from a bundle.
        domains: Labelled images; the labels only judge answers.
        plan: From `protocols.make_plan` over the same domains.
        batch: Images per step; batches run across borders of domains where the plan has no reset.
        advance: Is told how many images each step has done.

    Raises:
        AdapterError: If the model lacks what the adapter needs.
    """
    prepared = adapter.prepare(source)
    state = adapter.init(prepared)
    tally = _Tally()
    for reset, items in plan.batches(batch):
        state = adapter.init(prepared) if reset else state
        x = as_inputs(torch.from_numpy(domains.pixels(items)), source.value_range)
        began = time.perf_counter()
        output, state = adapter.step(prepared, state, x)
        tally.add(output, domains.labels(items), time.perf_counter() - began)
        advance(len(items))
    return tally.run(adapter.seed, domains, plan, prepared.degraded)


@dataclass
class _Tally:
    """What a run gathers batch by batch."""

    wrong: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    signals: dict[str, list[float]] = field(default_factory=dict)

    def add(self, output: StepOutput, labels: Integers, seconds: float) -> None:
        self.wrong.append(answers.labels(output.probabilities) != labels)
        self.seconds.append(seconds)
        for name, value in output.signals.items():
            self.signals.setdefault(name, []).append(float(value))

    def run(self, seed: int, domains: Domains, plan: Plan, degraded: str) -> Run:
        wrong, items, repetitions = np.concatenate(self.wrong), plan.items, plan.repetitions
        by_domain = {name: items.domain == number for number, name in enumerate(domains.names)}
        points = min(POINTS, max(1, len(wrong) // IMAGES_PER_POINT))
        return Run(
            seed=seed,
            error=_percent(wrong),
            errors={name: _percent(wrong[mine]) for name, mine in by_domain.items() if mine.any()},
            repetitions=tuple(_percent(wrong[repetitions == number]) for number in np.unique(repetitions)),
            course=tuple(_percent(part) for part in np.array_split(wrong, points)),
            milliseconds=statistics.median(self.seconds) * 1000,
            signals={name: Range(min(v), statistics.fmean(v), max(v)) for name, v in self.signals.items()},
            degraded=degraded,
        )


def _percent(wrong: npt.NDArray[np.bool_]) -> float:
    return 100 * float(wrong.mean())
