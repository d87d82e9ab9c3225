"""Takes a pipeline's first gradient steps: `python -m service.models.gradient_child`, with a job on standard input.

It runs as a separate process, because a network's backward pass may crash the process that runs it.
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
"""The process's niceness, so that serving has priority."""
SIZES = (1, 16, 64)
"""Batch sizes in images. PyTorch runs different code for small and for large batches."""
STEPS = 2
"""Steps at each batch size: the first from the initial state, the second from the state after the first."""
MOST_SECONDS = SECONDS / 2
"""A larger batch is skipped if the trial would take longer than this: a large network is not a broken one."""
MOST_BYTES = 2**30
"""A larger batch is skipped if it would need more memory than this in addition to the model."""


class Report:
    """A file of JSON lines that names the step in progress and the trial's result. All lines are complete."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, **facts: Any) -> None:
        """Write one line."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")


class Trial:
    """Takes steps of one model's pipelines, within bounds of time and memory that the pipelines share."""

    def __init__(self, source: SourceModel, report: Report) -> None:
        self._source = source
        self._report = report
        self._began = monotonic()

    def take(self, pipeline: Pipeline) -> None:
        """Take steps of one pipeline with growing batches, as far as time and memory allow.

        Raises:
            Exception: Any exception of the pipeline or the network.
        """
        fit = pipeline.prepare(self._source)
        before, base = 0, _peak()
        seconds = 0.0
        for size in SIZES:
            growth = size / before if before else 0.0
            if self._spent() + seconds * growth > MOST_SECONDS or (_peak() - base) * growth > MOST_BYTES:
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
    """Take the first gradient steps of a bundle's pipeline, or of every pipeline that its selector may choose."""
    source = load_source(read_bundle(job.bundle), job.allow_factories, job.threads)
    adapter: Adapter = create(job.spec, **job.options)
    trial = Trial(source, report)
    for pipeline in by_gradient(adapter):
        try:
            trial.take(pipeline)
        except AdapterError as error:  # a selector skips pipelines that the model does not support
            report.add(spec=str(pipeline.spec), refused=str(error)[:300])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _give_way() -> None:
    """Lower this process's priority, write no core file, and set an alarm that ends it even if the server is gone."""
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(int(SECONDS) + 5)
    try:  # if memory runs out, the kernel kills this process and not the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def main() -> None:
    """Run the job that is read from standard input."""
    job = Job.from_json(sys.stdin.read())
    report = Report(job.folder / REPORT)
    _give_way()
    torch.set_num_threads(job.threads)
    try:
        do(job, report)
    except BaseException as error:  # noqa: BLE001 - the server contains any exception, including SystemExit
        report.add(raised=f"{type(error).__name__}: {error}"[:300])
    else:
        report.add(passed=True)


if __name__ == "__main__":
    main()
