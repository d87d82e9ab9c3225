"""Runs an adapter on a model along a plan, and measures its errors, times and signals."""

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
"""A course has at most POINTS points, each over at least IMAGES_PER_POINT images."""

Advance = Callable[[int], None]
"""Called with the number of images just done."""


@dataclass(frozen=True)
class Range:
    """Minimum, mean and maximum of a signal over the batches of a run."""

    least: float
    mean: float
    greatest: float


@dataclass(frozen=True)
class Run:
    """The results of one pass over a plan. Errors are in % of the images.

    Attributes:
        seed: The adapter's seed.
        error: The error over all images.
        errors: The error of each domain in the plan.
        repetitions: The error of each repetition; one value except for `long`.
        course: The error over time, in equal parts of the stream.
        milliseconds: Median time of a step.
        signals: The adapter's signals, by name.
        degraded: What the pipeline lacked on this model; "" if nothing.
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
    """Run an adapter along a plan. Each batch is answered once, by the step that learns from it.

    Args:
        adapter: An adapter from `adapters.create` or `pipelines.read_pipeline`.
        source: The model. It need not come from a bundle.
        domains: Labelled images. Labels are used only to count errors.
        plan: A plan from `protocols.make_plan` for the same domains.
        batch: Images per step. A batch may span two domains, but not a reset.
        advance: Called with the number of images after each step.

    Raises:
        AdapterError: If the model does not meet the adapter's requirements.
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
    """The measurements of a run, collected batch by batch."""

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
