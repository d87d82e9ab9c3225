"""Tries gradient steps through a network's custom code in a child process before the server takes them."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from time import monotonic
from typing import Any

import torch
from torch import nn

from adapters.adapter import Adapter
from adapters.choosing.adapter import Choosing
from adapters.pipeline import Pipeline
from service.errors import DeadlineError, UnfitError
from service.models.bundle import Bundle
from service.models.process_environment import private_environment
from service.models.process_job import Job
from service.support.atomic_files import AS_UMASK, write_whole
from service.telemetry.logs import log

SECONDS = 60.0
"""Longest duration of one trial."""
WAIT_SECONDS = 90.0
"""Longest time that a request waits for its trial and the trials before it."""
AGAIN_SECONDS = 600.0
"""Time after which a refused pipeline is tried again, because memory or time may have been short."""
REPORT = "report"
"""The file in a trial's folder that records its progress."""
OURS = frozenset({"torch", "adapters", "service"})
"""Packages whose layers are tested with every pipeline. A network that uses only these needs no trial."""
REMEDY = (
    "the server would have ended too. Choose a pipeline that learns without gradients, such as `batch` or `source`, or "
    "fix the backward of the network's own code; ACCLIMATE_TRY_GRADIENTS=false serves it untried"
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def by_gradient(adapter: Adapter) -> list[Pipeline]:
    """Return the distinct pipelines of an adapter that learn by gradients."""
    several = [adapter] if isinstance(adapter, Pipeline) else adapter.pipelines if isinstance(adapter, Choosing) else []
    return list({str(each.spec): each for each in several if each.learner.needs.gradient}.values())


def foreign_code(network: nn.Module) -> tuple[str, ...]:
    """Return the Python modules of a network's custom code: all but PyTorch's and this package's."""
    return tuple(sorted({name for name in _defined_in(network) if name.partition(".")[0] not in OURS}))


def _defined_in(network: nn.Module) -> Iterator[str]:
    for module in network.modules():
        yield type(module).__module__
        own = [hook for hooks in HOOKS for hook in vars(module).get(hooks, {}).values()]
        own += [vars(module)["forward"]] if "forward" in vars(module) else []
        for function in own:
            yield getattr(function, "__module__", None) or type(function).__module__


@dataclass(frozen=True)
class Refused:
    """Why a pipeline was refused, and until when on the monotonic clock."""

    reason: str
    until: float


class Trials:
    """Runs one trial at a time. Verdicts are kept in memory, and passed trials also in a folder for later starts.

    Args:
        folder: The folder of passed trials, created for the first one; None to keep them only in memory.
        allow_factories: The model factories that bundles may name.
        threads: PyTorch's number of threads.
    """

    def __init__(self, folder: Path | None, allow_factories: tuple[str, ...], threads: int) -> None:
        self._folder = folder
        self._allow_factories = allow_factories
        self._threads = threads
        self._found: dict[str, Refused | None] = {}
        self._one = Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="trials")
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def knows(self, key: str) -> bool:
        """Return whether a pipeline has a valid verdict, so that `check` does not block."""
        found = self._found.get(key)
        return key in self._found and (found is None or monotonic() < found.until)

    def check(self, key: str, facts: Mapping[str, str], bundle: Bundle, spec: str, options: Mapping[str, Any]) -> None:
        """Try a pipeline if it has no verdict yet; this blocks for some seconds.

        Raises:
            UnfitError: If the trial's process crashed or timed out.
        """
        if not self.knows(key):  # tested before taking the lock, so that a known pipeline waits for no other trial
            with self._one:
                if not self.knows(key):
                    self._found[key] = None if self._is_kept(key) else self._tried(key, facts, bundle, spec, options)
        found = self._found[key]
        if found is not None:
            raise UnfitError(found.reason)

    async def ahead(self, check: Callable[[], None]) -> None:
        """Run a check off the event loop and the worker.

        Raises:
            UnfitError: As `check`.
            DeadlineError: If it takes longer than WAIT_SECONDS. The trial continues.
        """
        running = asyncio.wrap_future(self._executor.submit(copy_context().run, check))
        running.add_done_callback(_ignore)
        done, _ = await asyncio.wait({running}, timeout=WAIT_SECONDS)
        if not done:
            raise DeadlineError("other pipelines are being tried; nothing was changed: send the request again later")
        running.result()

    def _is_kept(self, key: str) -> bool:
        return self._folder is not None and (self._folder / f"{key}.json").is_file()

    def _tried(
        self, key: str, facts: Mapping[str, str], bundle: Bundle, spec: str, options: Mapping[str, Any]
    ) -> Refused | None:
        """Try a pipeline, and store the verdict in the folder if it passes."""
        began = monotonic()
        try:
            outcome = self._run(bundle, spec, options)
        except OSError as error:  # the process or its folder could not be created
            outcome = Outcome(doubt=str(error))
        fields = {"model": bundle.name, "adapter": spec, "seconds": round(monotonic() - began, 1)}
        if outcome.refusal:
            log.warning("gradients_refused", **fields, reason=outcome.refusal)
            return Refused(f"{spec}: {outcome.refusal}; {REMEDY}", monotonic() + AGAIN_SECONDS)
        if outcome.doubt:  # an exception here would be raised in the server too, and the server survives it
            log.warning("gradients_not_tried", **fields, reason=outcome.doubt)
            return None
        log.info("gradients_tried", **fields)
        self._keep(key, facts)
        return None

    def _run(self, bundle: Bundle, spec: str, options: Mapping[str, Any]) -> "Outcome":
        with TemporaryDirectory(prefix="acclimate-trial-") as name:
            folder = Path(name)
            job = Job(bundle.path, self._allow_factories, spec, options, 1, self._threads, folder)
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "service.models.gradient_child"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
                env={**private_environment(folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # so that Ctrl-C in a terminal reaches only the server
            )  # fmt: skip
            try:
                if self._is_closed():
                    return Outcome(doubt="the server stops")
                process.communicate(job.to_json(), timeout=SECONDS)
            except subprocess.TimeoutExpired:
                return read_outcome(folder / REPORT, None)
            finally:
                process.kill()
                process.wait()
                self._process = None
            if self._is_closed():
                return Outcome(doubt="the server stops")
            return read_outcome(folder / REPORT, process.returncode)

    def _is_closed(self) -> bool:
        return self._closed

    def _keep(self, key: str, facts: Mapping[str, str]) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / f"{key}.json", json.dumps(facts).encode(), AS_UMASK, lambda _: None)
        except OSError as error:
            log.warning("trial_not_kept", reason=str(error))

    def close(self) -> None:
        """Kill the running trial, and start no more."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        process = self._process
        if process is not None:
            process.kill()


@dataclass(frozen=True)
class Outcome:
    """The result of a trial. Both texts are "" if it passed.

    Attributes:
        refusal: Why the pipeline is unsafe.
        doubt: Why the trial says nothing about the pipeline.
    """

    refusal: str = ""
    doubt: str = ""


def read_outcome(report: Path, status: int | None) -> Outcome:
    """Judge a trial by its report and its process's exit status; None means that the trial timed out."""
    lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()] if report.is_file() else []
    last = lines[-1] if lines else {}
    if "passed" in last:
        return Outcome()
    if "raised" in last:
        return Outcome(doubt=last["raised"])
    if "images" not in last:  # no step has failed, and the server has loaded the model too
        return Outcome(doubt=f"the process ended before the first step ({_end_of(status)})")
    batch = "one image" if last["images"] == 1 else f"{last['images']} images"
    tried = f"a gradient step of {last['spec']} through this network, with {batch}, was tried in a child process"
    return Outcome(refusal=f"{tried}, and {_end_of(status)}")


def _end_of(status: int | None) -> str:
    if status is None or status == -signal.SIGALRM:
        return f"it did not end within {SECONDS:g} s"
    if status >= 0:
        return f"it ended that process with exit status {status}"
    named = {each.value: each.name for each in signal.Signals}
    return f"it ended that process by {named.get(-status, f'signal {-status}')}"


class ModelTrials:
    """The trials of one model's pipelines.

    Args:
        trials: Runs the trials and keeps their verdicts.
        bundle: The model's bundle.
        code: The Python modules of the network's custom code, from `foreign_code`.
    """

    def __init__(self, trials: Trials, bundle: Bundle, code: tuple[str, ...]) -> None:
        self._trials = trials
        self._bundle = bundle
        self._of_model = {
            "fingerprint": bundle.fingerprint,
            "code": _digest(code),
            "torch": torch.__version__,
            "acclimate": version("acclimate"),
        }

    def is_due(self, adapter: Adapter) -> bool:
        """Return whether `check` would start a process."""
        return bool(by_gradient(adapter)) and not self._trials.knows(_key(self._facts(adapter)))

    def check(self, adapter: Adapter, options: Mapping[str, Any]) -> None:
        """Try an adapter's gradient steps in a child process if that has not been done.

        Raises:
            UnfitError: If they crash the process or time out.
        """
        if by_gradient(adapter):
            facts = self._facts(adapter)
            self._trials.check(_key(facts), facts, self._bundle, str(adapter.spec), options)

    async def ahead(self, adapter: Adapter, options: Mapping[str, Any]) -> None:
        """Run `check` off the event loop and the worker.

        Raises:
            UnfitError: As `check`.
            DeadlineError: If it takes longer than WAIT_SECONDS.
        """
        await self._trials.ahead(partial(self.check, adapter, options))

    def _facts(self, adapter: Adapter) -> dict[str, str]:
        precisions = ", ".join(sorted({each.precision for each in by_gradient(adapter)}))
        return {**self._of_model, "adapter": str(adapter.spec), "precision": precisions}


def trials_of(trials: Trials | None, bundle: Bundle, network: nn.Module) -> ModelTrials | None:
    """Return the trials of a bundle's pipelines; None if the network has no custom code or trials are off."""
    code = foreign_code(network) if bundle.toml.model.kind == "torch" else ()
    return ModelTrials(trials, bundle, code) if trials is not None and code else None


def _digest(code: tuple[str, ...]) -> str:
    """Hash the files of Python modules."""
    digest = hashlib.sha256()
    for name in code:
        file = getattr(sys.modules.get(name), "__file__", None)
        digest.update(name.encode() + (Path(file).read_bytes() if file else b""))
    return digest.hexdigest()


def _key(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _ignore(running: "asyncio.Future[None]") -> None:
    """Retrieve the exception of a trial that no request waits for, so that asyncio does not log it."""
    if not running.cancelled():
        running.exception()
