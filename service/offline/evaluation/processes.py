"""Distributes runs over processes. Each loads the model once, maps the images, and computes with one thread."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from typing import TypeAlias

import torch

from adapters import SourceModel
from adapters.errors import AdapterError
from service.errors import FailedError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.offline.evaluation.data import Domains, mapped
from service.offline.evaluation.pipelines import read_pipeline
from service.offline.evaluation.protocols import Plan
from service.offline.evaluation.runs import Advance, Run, run

REPORT_SECONDS = 0.1
Load: TypeAlias = Callable[[], SourceModel]
"""Loads the model in the process that calls it. It must be hashable and picklable."""


@dataclass(frozen=True)
class BundleModel:
    """Loads a bundle's source model."""

    folder: Path
    allow_factories: tuple[str, ...]

    def __call__(self) -> SourceModel:
        """Return the source model.

        Raises:
            BundleError: If the bundle cannot be served.
        """
        return host(read_bundle(self.folder), self.allow_factories, 1).source


@dataclass(frozen=True)
class Task:
    """A run to make: a pipeline's text, a plan, a batch size and a seed."""

    pipeline: str
    plan: Plan
    batch: int
    seed: int = 0


@dataclass(frozen=True)
class Failure:
    """Why a run could not be made."""

    reason: str


Outcome: TypeAlias = Run | Failure


def run_all(load: Load, domains: Domains, tasks: Sequence[Task], processes: int, advance: Advance) -> list[Outcome]:
    """Make all runs in `processes` processes. Their number does not change the results.

    Raises:
        FailedError: If a process dies, for example for lack of memory.
    """
    if processes == 1 or len(tasks) < 2:
        source = load()
        with _one_thread():
            return [_outcome(source, domains, task, advance) for task in tasks]
    with TemporaryDirectory(prefix="acclimate-compare-") as folder:
        return _run_apart(load, mapped(domains, Path(folder)), tasks, min(processes, len(tasks)), advance)


def _run_apart(load: Load, domains: Domains, tasks: Sequence[Task], processes: int, advance: Advance) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    progress: Queue[int] = context.Queue()
    with ProcessPoolExecutor(processes, context, _start, (progress,)) as pool:
        futures = [pool.submit(_outcome_apart, load, domains, task) for task in tasks]
        try:
            reported = _follow(futures, progress, advance)
            outcomes, images = zip(*(future.result() for future in futures), strict=True)
            advance(sum(images) - reported)  # a process's last report may arrive after its outcome
            return list(outcomes)
        except BrokenProcessPool:
            raise FailedError(
                "a process of the comparison ended before its time; fewer --jobs take less memory"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _follow(futures: "Sequence[Future[tuple[Outcome, int]]]", progress: "Queue[int]", advance: Advance) -> int:
    """Forward the processes' progress until all are done or one has failed; return the number of images reported."""
    waiting, reported = set(futures), 0
    while waiting:
        done, waiting = wait(waiting, timeout=REPORT_SECONDS)
        for future in done:
            future.result()
        images = _drained(progress)
        advance(images)
        reported += images
    return reported


def _drained(progress: "Queue[int]") -> int:
    images = 0
    while True:
        try:
            images += progress.get_nowait()
        except Empty:
            return images


_progress: "list[Queue[int]]" = []
"""In a process of the pool: its progress queue. A queue can be passed to a process only when it starts."""


def _start(progress: "Queue[int]") -> None:
    torch.set_num_threads(1)
    _progress.append(progress)


def _outcome_apart(load: Load, domains: Domains, task: Task) -> tuple[Outcome, int]:
    """Return the outcome, and the number of images in the run, reported or not."""
    waiting, seen, since = 0, 0, time.monotonic()

    def advance(images: int) -> None:
        nonlocal waiting, seen, since
        waiting, seen = waiting + images, seen + images
        if time.monotonic() - since >= REPORT_SECONDS:
            _progress[0].put(waiting)
            waiting, since = 0, time.monotonic()

    outcome = _outcome(_loaded(load), domains, task, advance)
    return outcome, seen


def _outcome(source: SourceModel, domains: Domains, task: Task, advance: Advance) -> Outcome:
    try:
        return run(read_pipeline(task.pipeline, task.seed), source, domains, task.plan, task.batch, advance)
    except (AdapterError, RuntimeError) as error:  # PyTorch raises RuntimeError if a network cannot run a batch
        return Failure(str(error).partition("\n")[0])


@lru_cache(maxsize=1)
def _loaded(load: Load) -> SourceModel:
    return load()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as a pool's processes do, because sums of floats depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
