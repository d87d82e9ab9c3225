"""Measures forgetting alongside the traffic, one batch at a time, so that a request waits for one batch at most."""

import asyncio
import json
import time
from dataclasses import asdict, dataclass, replace

import torch

from adapters import AdapterState
from adapters.functional import answers
from service.errors import ServiceError
from service.models.hosted import Fitted
from service.models.reference import Probe
from service.models.worker import Worker
from service.monitoring.feature_shift import LEAST, Compared, compared
from service.monitoring.guard import Action, Verdicts, decide
from service.serving.scheduler import Scheduler
from service.storage.recorder import Recorder
from service.streams import engine
from service.streams.good_states import GoodState
from service.streams.stream import Stream
from service.streams.value import ProbeResult, StreamValue
from service.support.clock import CLOCK
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry
from service.types import Happening

IDLE_SECONDS = 30.0
"""Seconds that a batch waits for the server to be idle; after that it runs between requests."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The state that a probe measures, and the stream's position when the probe began."""

    fitted: Fitted
    state: AdapterState
    generation: int
    beginnings: int


class Prober:
    """Probes streams that have taken enough learning steps since their last probe."""

    def __init__(
        self, worker: Worker, scheduler: Scheduler, telemetry: Telemetry, recorder: Recorder, every: int
    ) -> None:
        self._worker = worker
        self._scheduler = scheduler
        self._telemetry = telemetry
        self._recorder = recorder
        self._every = every
        self._due: dict[str, Stream] = {}
        self._wake = asyncio.Event()
        self._initial: dict[str, float] = {}

    def note(self, stream: Stream) -> None:
        """Schedule a probe if the stream is due for one: its model has a probe set, and `every` steps have passed."""
        if self._is_due(stream):
            self._due[stream.id] = stream
            self._wake.set()

    def _is_due(self, stream: Stream) -> bool:
        if not self._every or stream.model.reference.probe is None:
            return False
        value, probe = stream.current, stream.current.readings.probe
        since = value.steps - (probe.steps if probe is not None else 0)
        return since >= self._every or since < 0

    async def run(self) -> None:
        """Probe one stream after another until cancelled."""
        while True:
            if not self._due:  # a cancelled run may have left streams behind
                await self._wake.wait()
            self._wake.clear()
            while self._due:
                stream = self._due.pop(next(iter(self._due)))
                if not self._is_due(stream):  # requests during its last probe have scheduled it again
                    continue
                try:
                    await self._probe(stream)
                except ServiceError as error:
                    log.warning("probe_failed", stream=stream.id, reason=str(error))
                except Exception as error:  # noqa: BLE001 - one stream's failure must not end the probes of others
                    log.error("probe_failed", stream=stream.id, exc_info=error)

    async def _probe(self, stream: Stream) -> None:
        probe, calibration = stream.model.reference.probe, stream.model.reference.calibration
        if probe is None or calibration is None:
            return
        began = time.perf_counter()
        value = stream.current
        subject = Subject(value.config.fitted, value.state.adapter, value.generation, value.counters.beginnings)
        accuracy = await self._accuracy(subject.fitted, subject.state, probe)
        key = json.dumps([stream.model.name, subject.fitted.spec, subject.fitted.options], sort_keys=True, default=str)
        if key not in self._initial:
            self._initial[key] = await self._accuracy(subject.fitted, subject.fitted.initial(), probe)
        found = await self._compared(stream)
        result = ProbeResult(
            accuracy=accuracy,
            forgetting=self._initial[key] - accuracy,
            source_gap=float(calibration.accuracy) - accuracy,
            generation=subject.generation,
            steps=int(subject.state.steps),
            time=CLOCK.now(),
            compared=found,
        )
        seconds = time.perf_counter() - began
        self._telemetry.observe_probe(stream.model.name, result.source_gap, result.forgetting, seconds)
        await self._scheduler.submit(stream, lambda: self._conclude(stream, subject, result))

    async def _accuracy(self, fitted: Fitted, state: AdapterState, probe: Probe) -> float:
        """Return a state's accuracy on the probe set, measured one batch at a time with requests in between."""
        right = 0
        for number in range(probe.chunks):
            await self._scheduler.admission.idle(IDLE_SECONDS)
            async with self._worker.slot:
                right += await self._worker.run(lambda number=number: _right(fitted, state, probe, number))  # type: ignore[misc]
        return right / len(probe.labels)

    async def _compared(self, stream: Stream) -> Compared | None:
        features, reference = stream.current.readings.features, stream.model.reference.features
        if features is None or reference is None or len(features) < LEAST:
            return None
        await self._scheduler.admission.idle(IDLE_SECONDS)
        async with self._worker.slot:
            return await self._worker.run(lambda: compared(features, reference, seed=0))

    def _conclude(self, stream: Stream, subject: Subject, result: ProbeResult) -> None:
        """Keep the result and apply the guard to it, in the stream's turn. Do nothing if the stream began again."""
        value = stream.current
        if value.counters.beginnings != subject.beginnings or value.config.fitted is not subject.fitted:
            return
        self._report_features(stream, value.readings.probe, result)
        value = _with_result(value, subject, result)
        decision = decide(Verdicts(source_gap=result.source_gap), value.config.policy)
        acts = decision.action is not Action.KEPT and value.config.mode != "frozen"
        stream.current = engine.apply_guard(value, decision) if acts else value
        if acts:
            self._telemetry.observe_guard(stream.model.name, decision.action.value, decision.rule)
            figures = {"source_gap": result.source_gap, "forgetting": result.forgetting, "accuracy": result.accuracy}
            happening = Happening("guard", decision.reason, decision.action.value, figures)
            self._recorder.log(stream, happening)

    def _report_features(self, stream: Stream, before: ProbeResult | None, result: ProbeResult) -> None:
        """Report features that have become unlike the source's, once until they are alike again."""
        found = result.compared
        reported = before is not None and before.compared is not None and before.compared.differ
        if found is None or not found.differ or reported:
            return
        reason = (
            f"features of the newest images are unlike the source's: MMD {found.mmd:.3f} (p {found.p_value:.3f}), "
            f"{100 * found.unlike:.0f} % of the dimensions differ"
        )
        self._recorder.log(stream, Happening("drift", reason, figures=asdict(found)))


def _with_result(value: StreamValue, subject: Subject, result: ProbeResult) -> StreamValue:
    """Keep a probe's result, and its state as a good one if it passed."""
    value = replace(value, readings=replace(value.readings, probe=result))
    if result.source_gap > value.config.policy.budget:
        return value
    with_images = value.config.fitted.adapter.holds_inputs
    good = GoodState(subject.state, result.steps, subject.generation, result.accuracy, with_images)
    return replace(value, good=value.good.with_newest(good))


@torch.no_grad()
def _right(fitted: Fitted, state: AdapterState, probe: Probe, number: int) -> int:
    x, labels = probe.chunk(number)
    return int((answers.labels(fitted.probe(state, x).probabilities) == labels.numpy()).sum())
