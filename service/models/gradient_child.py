"""Takes the first gradient steps of a pipeline: `python -m service.models.gradient_child`, a job on standard input.

A process of its own, since a network's backward may end the process that runs it.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from adapters import create
from adapters.adapter import Adapter
from adapters.errors import AdapterError
from adapters.pipeline import Pipeline
from adapters.source import SourceModel
from service.models.bundle import read_bundle
from service.models.gradient_trials import REPORT, SECONDS, by_gradient
from service.models.hosted import load_source
from service.models.process_job import Job

NICENESS = 10
"""A trial gives way to serving."""
SIZES = (1, 16, 64)
"""Images of the batches; PyTorch takes other code for small batches than for large ones."""
STEPS = 2
"""With each batch: the first from the initial state, the second from what that has made of it."""
MOST_SECONDS = SECONDS / 2
"""A larger batch is left out if it would bring the trial beyond this: a large network is no broken one."""
MOST_BYTES = 2**30
"""A larger batch is left out if it would take more memory than this beside the model."""


class Report:
    """A file that says which step is being taken, and how the trial ended; it is whole up to the last line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, **facts: Any) -> None:
        """Write one line."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")


class Trial:
    """Steps through one model, within bounds of time and memory that are shared by all pipelines."""

    def __init__(self, source: SourceModel, report: Report) -> None:
        self._source = source
        self._report = report
        self._began = monotonic()

    def take(self, pipeline: Pipeline) -> None:
        """Take steps of one pipeline with batches of growing size, as far as time and memory allow.

        Raises:
            Exception: What the pipeline or the network raises.
        """
        fit = pipeline.prepare(self._source)
        before, base = 0, _peak()
        seconds = 0.0
        for size in SIZES:
            times = size / before if before else 0.0
            if self._spent() + seconds * times > MOST_SECONDS or (_peak() - base) * times > MOST_BYTES:
                return
            self._report.add(spec=str(pipeline.spec), images=size)
            began, state = monotonic(), pipeline.init(fit)
            for seed in range(STEPS):
                _, state = pipeline.step(fit, state, self._images(size, seed))
            before, seconds = size, monotonic() - began

    def _spent(self) -> float:
        return monotonic() - self._began

    def _images(self, size: int, seed: int) -> torch.Tensor:
        low, high = self._source.value_range
        generator = torch.Generator().manual_seed(seed)
        return low + (high - low) * torch.rand(size, *self._source.input_shape, generator=generator)


def do(job: Job, report: Report) -> None:
    """Take the first gradient steps of a bundle's pipeline, or of all pipelines that a selector may run."""
    source = load_source(read_bundle(job.bundle), job.allow_factories, job.threads)
    adapter: Adapter = create(job.spec, **job.options)
    trial = Trial(source, report)
    for pipeline in by_gradient(adapter):
        try:
            trial.take(pipeline)
        except AdapterError as error:  # a selector does without a pipeline that the model is not fit for
            report.add(spec=str(pipeline.spec), refused=str(error)[:300])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _give_way() -> None:
    """Give way to the server, leave no core file, and end in time even if the server has gone."""
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(int(SECONDS) + 5)
    try:  # memory that is short is taken from this process, not from the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def main() -> None:
    """Do the job on standard input."""
    job = Job.from_json(sys.stdin.read())
    report = Report(job.folder / REPORT)
    _give_way()
    torch.set_num_threads(job.threads)
    try:
        do(job, report)
    except BaseException as error:  # noqa: BLE001 - the server contains whatever is raised, SystemExit too
        report.add(raised=f"{type(error).__name__}: {error}"[:300])
    else:
        report.add(passed=True)


if __name__ == "__main__":
    main()
