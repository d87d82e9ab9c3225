"""Compiles frequent steps in the background, one at a time, and uses those that are exact and faster."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from time import perf_counter

from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from service.errors import BundleError
from service.models.hosted import Fitted, HostedModel
from service.models.kernels.kernel import Kernel, KernelStatus, OwnSteps
from service.models.kernels.native.passes import NativePasses
from service.models.kernels.native.step import NativeStep
from service.models.kernels.verify import judge
from service.models.process_environment import private_environment
from service.models.process_job import Job
from service.telemetry.logs import log

OFTEN = 100
"""Requests of one size after which its step is compiled."""
MOST_SIZES = 4
"""Most batch sizes compiled for one pipeline."""
SECONDS = 1800.0
"""Longest duration of one compilation."""
COMPILING = KernelStatus("it is being compiled")


def loaded(folder: Path, own: OwnSteps, images: int) -> Kernel:
    """Load the code that was compiled for a pipeline into a folder."""
    if own.pipeline.learner.reads_often:
        return NativePasses(folder, own, images)
    return NativeStep(folder, own.fit.net.memory_format)


class Workshop:
    """Compiles steps in a child process, one at a time. Meanwhile the pipelines serve uncompiled.

    Each compilation writes to a new temporary folder, which is removed once the code is loaded. The server therefore
    never runs code that somebody else has put there.

    Args:
        allow_factories: The model factories that bundles may name.
        threads: PyTorch's number of threads.
        often: Requests of one size after which its step is compiled.
    """

    def __init__(self, allow_factories: tuple[str, ...], threads: int, often: int = OFTEN) -> None:
        self._allow_factories = allow_factories
        self._threads = threads
        self._often = often
        self._requests: Counter[tuple[int, int]] = Counter()
        self._busy = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def step(self, model: HostedModel, fitted: Fitted, state: AdapterState, x: Tensor, *, exact: bool) -> Stepped:
        """Take a step by the fastest code for the pipeline. Call it on the worker, in the stream's turn.

        Args:
            model: The pipeline's model.
            fitted: The pipeline.
            state: The state before the step. It is not changed.
            x: Images (N, *input_shape).
            exact: Whether the step must be the pipeline's own, bit for bit. A stream that is saved before each answer
                needs this: after a crash it repeats steps from its checkpoint, and must reach the same state.
        """
        images, statuses = len(x), fitted.kernels.native
        status = statuses.get(images)
        if exact:
            return fitted.step(state, x)
        if status is None:
            self._count(model, fitted, images)
            return fitted.step(state, x)
        if status.kernel is not None and status.reason:
            status = statuses[images] = _judged(status.kernel, fitted, state, x)
        return (status.serving(1) or fitted).steps([state], [x])[0]

    def close(self) -> None:
        """Kill the running compilation, and start no more."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _count(self, model: HostedModel, fitted: Fitted, images: int) -> None:
        key = (id(fitted), images)
        self._requests[key] += 1
        statuses, can = fitted.kernels.native, fitted.kernels.can
        if self._requests[key] < self._often or len(statuses) >= MOST_SIZES or self._closed:
            return
        if can.own is None or can.native:
            statuses[images] = KernelStatus(can.native)
            return
        if not self._busy.acquire(blocking=False):
            return
        statuses[images] = COMPILING
        Thread(target=self._make, args=(model, fitted, can.own, images), name="workshop", daemon=True).start()

    def _make(self, model: HostedModel, fitted: Fitted, own: OwnSteps, images: int) -> None:
        """Compile one step. This runs on its own thread, which only waits for the process."""
        began, statuses = perf_counter(), fitted.kernels.native
        fields = {"model": model.name, "adapter": fitted.spec, "images": images}
        try:
            with TemporaryDirectory(prefix="acclimate-native-") as name:
                job = Job(
                    model.bundle.path, self._allow_factories, fitted.spec, fitted.options, images, self._threads,
                    Path(name),
                )  # fmt: skip
                self._compile(job)
                statuses[images] = replace(COMPILING, kernel=loaded(job.folder, own, images))
            log.info("step_compiled", **fields, seconds=round(perf_counter() - began, 1))
        except Exception as error:  # noqa: BLE001 - if compilation fails in any way, the pipeline serves uncompiled
            status = statuses[images] = KernelStatus(f"it cannot be compiled: {str(error)[:300]}")
            log.warning("step_not_compiled", **fields, reason=status.reason)
        finally:
            self._busy.release()

    def _compile(self, job: Job) -> None:
        """Run the compiling process.

        Raises:
            BundleError: If it fails. The message is the last line of its standard error.
            TimeoutExpired: If it takes longer than SECONDS.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.models.kernels.native.compile"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=private_environment(job.folder),
        )  # fmt: skip
        try:
            if self._closed:
                raise BundleError("the server stops")
            _, errors = self._process.communicate(job.to_json(), timeout=SECONDS)
            if self._process.returncode:
                raise BundleError((errors.strip().splitlines() or [f"exit {self._process.returncode}"])[-1])
        finally:
            self._process.kill()
            self._process = None


def _judged(kernel: Kernel, fitted: Fitted, state: AdapterState, x: Tensor) -> KernelStatus:
    """Compare machine code with the pipeline on a stream's images x and their mirror images in turn, and time both."""
    status = judge(kernel, fitted, [state], [[x], [x.flip(-1)], [x]], [x])
    facts = {"images": len(x), "times": round(status.times, 2), "reason": status.reason}
    log.info("native_step_judged", adapter=fitted.spec, **facts)
    return status
