"""Compiles frequent steps in the background, one at a time, and uses those that are exact and faster."""

import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from time import perf_counter

from torch import Tensor

from adapters import AdapterState, Pipeline
from adapters.joint_step import Stepped
from adapters.pipeline import Fit
from adapters.precision import FLOAT32
from service.errors import BundleError
from service.models.batching_speedup import WORTH, fastest
from service.models.hosted import Fitted, HostedModel
from service.models.kernels.native.passes import NativePasses
from service.models.kernels.native.step import STEP, NativeStep, check
from service.models.native_result import CompiledCode, Native
from service.models.process_environment import private_environment
from service.models.process_job import Job
from service.telemetry.logs import log

OFTEN = 100
"""Requests of one size after which its step is compiled."""
MOST_SIZES = 4
"""Most batch sizes compiled for one pipeline."""
SECONDS = 1800.0
"""Longest duration of one compilation."""
COMPILERS = ("g++", "clang++", "c++")


def is_compiled(pipeline: Pipeline) -> bool:
    """Return whether a gradient step can be compiled: it is a pure function of tensors, or it runs many passes."""
    compiles_whole = pipeline.learner.needs.gradient and pipeline.pure_graph and not pipeline.draws
    return compiles_whole or pipeline.learner.reads_often


def why_not(fitted: Fitted) -> str:
    """Return why a pipeline's step is never compiled to machine code; "" if it may be."""
    adapter = fitted.adapter
    if not isinstance(adapter, Pipeline) or not isinstance(fitted.prepared, Fit):
        return f"{fitted.spec} chooses among pipelines as it runs"
    if not adapter.learner.needs.gradient:
        return "it learns without gradients: a graph serves it, or may (`compiled_specs`)"
    if adapter.precision != FLOAT32:
        return f"it computes in {adapter.precision}, compiled steps in {FLOAT32}"
    if not is_compiled(adapter):
        return f"{fitted.spec} branches on data or draws random numbers"
    return "" if any(map(shutil.which, COMPILERS)) else f"there is no C++ compiler ({', '.join(COMPILERS)})"


def loaded(folder: Path, pipeline: Pipeline, fit: Fit, images: int) -> CompiledCode:
    """Load the code that was compiled for a pipeline into a folder."""
    if pipeline.learner.reads_often:
        return NativePasses(folder, pipeline, fit, images)
    return NativeStep(folder / STEP, fit.net.memory_format)


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
        images = len(x)
        if exact:
            return fitted.step(state, x)
        native = fitted.native.get(images)
        if native is None:
            self._count(model, fitted, images)
            return fitted.step(state, x)
        if native.made is not None:
            _judge(native, fitted, state, x)
        return (native.step or fitted).step(state, x)

    def close(self) -> None:
        """Kill the running compilation, and start no more."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _count(self, model: HostedModel, fitted: Fitted, images: int) -> None:
        key = (id(fitted), images)
        self._requests[key] += 1
        if self._requests[key] < self._often or len(fitted.native) >= MOST_SIZES or self._closed:
            return
        reason = why_not(fitted)
        if reason:
            fitted.native[images] = Native(reason=reason)
            return
        if not self._busy.acquire(blocking=False):
            return
        fitted.native[images] = native = Native()
        Thread(target=self._make, args=(native, model, fitted, images), name="workshop", daemon=True).start()

    def _make(self, native: Native, model: HostedModel, fitted: Fitted, images: int) -> None:
        """Compile one step. This runs on its own thread, which only waits for the process."""
        began, fit = perf_counter(), fitted.prepared
        fields = {"model": model.name, "adapter": fitted.spec, "images": images}
        try:
            with TemporaryDirectory(prefix="acclimate-native-") as name:
                job = Job(
                    model.bundle.path, self._allow_factories, fitted.spec, fitted.options, images, self._threads,
                    Path(name),
                )  # fmt: skip
                self._compile(job)
                if isinstance(fit, Fit) and isinstance(fitted.adapter, Pipeline):
                    native.made = loaded(job.folder, fitted.adapter, fit, images)
            log.info("step_compiled", **fields, seconds=round(perf_counter() - began, 1))
        except Exception as error:  # noqa: BLE001 - if compilation fails in any way, the pipeline serves uncompiled
            native.reason = f"it cannot be compiled: {str(error)[:300]}"
            log.warning("step_not_compiled", **fields, reason=native.reason)
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


def _judge(native: Native, fitted: Fitted, state: AdapterState, x: Tensor) -> None:
    """Compare the compiled step with the pipeline's on a stream's images, and time both. This happens once."""
    code, native.made = native.made, None
    if code is None:
        return
    try:
        if isinstance(code, NativeStep):
            code.signals = tuple(fitted.step(state, x)[0].signals)
        check(code, fitted.step, state, x)
    except Exception as error:  # noqa: BLE001 - if compiled code fails in any way, the pipeline serves uncompiled
        native.reason = f"compiled, it is not used: {str(error)[:300]}"
        log.warning("native_step_refused", adapter=fitted.spec, images=len(x), reason=native.reason)
        return
    native.times = fastest(partial(fitted.step, state, x)) / fastest(partial(code.step, state, x))
    if native.times >= WORTH:
        native.step, native.reason = code, ""
    else:
        native.reason = f"compiled, it takes {1 / native.times:.1f} times as long"
    log.info("native_step_judged", adapter=fitted.spec, images=len(x), times=round(native.times, 2))
