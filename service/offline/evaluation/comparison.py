"""Compares pipelines under several protocols and batch sizes, all on the same streams."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapters import SourceModel
from adapters.errors import UnfitModelError
from service.offline.evaluation.data import Domains
from service.offline.evaluation.pipelines import is_random, read_pipeline
from service.offline.evaluation.processes import Failure, Load, Outcome, Task, run_all
from service.offline.evaluation.protocols import Plan
from service.offline.evaluation.runs import Advance, Run

SOURCE = "source"
"""The spec of the frozen model, the baseline of every comparison."""


@dataclass(frozen=True)
class Cell:
    """The results of one pipeline under one protocol at one batch size.

    Attributes:
        pipeline: The pipeline's text, `SPEC[,PART.OPTION=VALUE]...`.
        protocol: The protocol's name.
        batch: Images per step.
        runs: One run per seed; none if the pipeline was refused.
        source_error: The frozen model's error in % on the same images.
        refusal: Why there are no runs; "" if there are.
    """

    pipeline: str
    protocol: str
    batch: int
    runs: tuple[Run, ...]
    source_error: float
    refusal: str = ""

    @property
    def error(self) -> float:
        """Mean error in % over the seeds; infinite if refused."""
        return statistics.fmean(run.error for run in self.runs) if self.runs else math.inf

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the seeds; 0 for a single run."""
        if len(self.runs) < 2:
            return 0.0
        return statistics.stdev(run.error for run in self.runs) / math.sqrt(len(self.runs))

    @property
    def milliseconds(self) -> float:
        """Median time of a step in milliseconds."""
        return statistics.median(run.milliseconds for run in self.runs)

    @property
    def errors(self) -> dict[str, float]:
        """Mean error in % by domain."""
        return {name: statistics.fmean(run.errors[name] for run in self.runs) for name in self.runs[0].errors}

    @property
    def course(self) -> list[float]:
        """Mean error in % over time."""
        return [statistics.fmean(part) for part in zip(*(run.course for run in self.runs), strict=True)]

    @property
    def worse_than_source(self) -> bool:
        """Whether adapting did harm: its error exceeds the frozen model's."""
        return bool(self.runs) and self.error > self.source_error


@dataclass(frozen=True)
class Schedule:
    """All runs that a comparison will make; `refused` maps pipelines that the model does not support to the reason."""

    pipelines: tuple[str, ...]
    plans: tuple[Plan, ...]
    batches: tuple[int, ...]
    tasks: tuple[Task, ...]
    refused: Mapping[str, str]

    @property
    def images(self) -> int:
        """The number of images in all runs, which is the total that `advance` receives."""
        return sum(len(task.plan.items) for task in self.tasks)


def schedule(
    source: SourceModel, pipelines: Sequence[str], plans: Sequence[Plan], batches: Sequence[int], seeds: int
) -> Schedule:
    """List the runs of a comparison.

    Deterministic pipelines run once; the others run with the seeds 0 to `seeds` - 1. If the frozen model is not among
    the pipelines, it runs once per protocol as the baseline.

    Raises:
        AdapterError: If a pipeline's text is invalid. A pipeline that the model does not support is no error.
    """
    numbers: dict[str, range] = {}
    refused: dict[str, str] = {}
    for text in pipelines:
        read_pipeline(text)
        try:
            numbers[text] = range(seeds) if is_random(text, source) else range(1)
        except UnfitModelError as error:
            refused[text] = str(error)
    tasks = [
        Task(text, plan, batch, seed)
        for text in numbers
        for plan in plans
        for batch in batches
        for seed in numbers[text]
    ]
    if SOURCE not in numbers:
        tasks += [Task(SOURCE, plan, max(batches)) for plan in plans]
    return Schedule(tuple(pipelines), tuple(plans), tuple(batches), tuple(tasks), refused)


def compare(load: Load, domains: Domains, runs: Schedule, processes: int, advance: Advance) -> list[Cell]:
    """Make all runs of a schedule. Return a cell for each pipeline, protocol and batch size, in that order.

    Raises:
        FailedError: If a process dies.
    """
    # Small batches take longest. They start first, so that no long run remains at the end.
    tasks = sorted(runs.tasks, key=lambda task: task.batch)
    outcomes = list(zip(tasks, run_all(load, domains, tasks, processes, advance), strict=True))
    return [
        _cell(text, plan.protocol, batch, outcomes, runs.refused.get(text, ""))
        for text in runs.pipelines
        for plan in runs.plans
        for batch in runs.batches
    ]


def _cell(text: str, protocol: str, batch: int, outcomes: list[tuple[Task, Outcome]], refusal: str) -> Cell:
    of_protocol = [(task, outcome) for task, outcome in outcomes if task.plan.protocol == protocol]
    source = [outcome.error for task, outcome in of_protocol if task.pipeline == SOURCE and isinstance(outcome, Run)]
    of_cell = [outcome for task, outcome in of_protocol if (task.pipeline, task.batch) == (text, batch)]
    failures = [outcome.reason for outcome in of_cell if isinstance(outcome, Failure)]
    runs = () if failures else tuple(outcome for outcome in of_cell if isinstance(outcome, Run))
    return Cell(text, protocol, batch, runs, source[0] if source else math.inf, refusal or "; ".join(failures[:1]))
