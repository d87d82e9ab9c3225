"""Inference: from a decoded request to an answer, through one stream's turn."""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import reduce
from time import perf_counter

import numpy as np
from opentelemetry import trace

from adapters.functional.answers import NONE, is_finite, labels
from service.errors import BusyError, ConflictError, ServiceError, UnknownError
from service.models.hosted import HostedModel
from service.models.kernels.native.background import Workshop
from service.monitoring.guard import Action, Decision
from service.serving.probe_runs import Prober
from service.serving.scheduler import Scheduler
from service.serving.stream_batching import Shared
from service.serving.stream_cache import Residence
from service.settings import Settings
from service.storage.checkpointer import Keeper
from service.storage.recorder import Recorder
from service.streams import engine
from service.streams.engine import Served
from service.streams.idempotency import Answered, RequestIdentity, RetryLog
from service.streams.stream import Stream
from service.streams.table import StreamTable, check_id, default_id
from service.streams.value import Config
from service.support.steps import Steps
from service.support.token_bucket import Buckets
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry
from service.telemetry.statistics import Statistics
from service.types import Array, Happening, InferResponse, Mode, Parameter
from service.wire.decoding import DecodedRequest
from service.wire.stream_parameters import Sequence

DONE = {
    Action.SKIPPED: "the step was not kept; answered from the state before it",
    Action.RESET: "the stream was reset; answered from the source state",
    Action.ROLLED_BACK: "the stream was rolled back; answered from the last good state",
    Action.FROZEN: "answered without learning",
}
TRACER = trace.get_tracer("acclimate")
TRACED = ("adapter", "mode", "action", "generation", "steps")
NAMED_ROWS = 10
"""Most row numbers that a warning about rows that are not finite lists."""


class Dataplane:
    """Answers inference requests; knows no HTTP."""

    def __init__(
        self,
        models: Mapping[str, HostedModel],
        table: StreamTable,
        scheduler: Scheduler,
        telemetry: Telemetry,
        statistics: Statistics,
        settings: Settings,
        recorder: Recorder,
        prober: Prober,
        keeper: Keeper,
        residence: Residence,
        end: Callable[..., Steps[None]],
        workshop: Workshop | None = None,
    ) -> None:
        self._models = models
        self._table = table
        self._scheduler = scheduler
        self._telemetry = telemetry
        self._statistics = statistics
        self._settings = settings
        self._recorder = recorder
        self._prober = prober
        self._keeper = keeper
        self._residence = residence
        self._end = end
        self._workshop = workshop
        self._pace = Buckets(settings.rate_per_stream, settings.rate_burst_seconds)

    def model(self, name: str, version: str | None = None) -> HostedModel:
        """Return a served model.

        Raises:
            UnknownError: If there is no model of this name and version.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownError(f"there is no model {name[:200]!r}; served are {', '.join(self._models)}")
        if version is not None and version != model.bundle.toml.version:
            raise UnknownError(
                f"model {name!r} has no version {version[:200]!r}; served is {model.bundle.toml.version!r}"
            )
        return model

    async def infer(self, model: HostedModel, request: DecodedRequest) -> InferResponse:
        """Answer a request in its stream's turn.

        Raises:
            ServiceError: If the request is refused. The stream is unchanged then.
        """
        response, infer_seconds = await self._in_turn(model, request)
        seconds = perf_counter() - request.began
        images = len(next(iter(response.outputs.values())))
        self._statistics.answered(model.name, images, seconds, infer_seconds)
        self._telemetry.request_seconds.labels(model.name).observe(seconds)
        return response

    def check_open(self) -> None:
        """Check that the server takes requests, before any work on one.

        Raises:
            SaturatedError: If the server is full or stopping.
        """
        self._scheduler.admission.check_open()

    def place(self, model: HostedModel, stream_id: str) -> AbstractContextManager[None]:
        """Count the decoding of a request's images towards the limits of its stream, "" for the shared one."""
        return self._scheduler.admission.place(self._table.find(stream_id or default_id(model)))

    @contextmanager
    def counting_failures(self, model: HostedModel) -> Iterator[None]:
        """Count a request that is refused or fails in the block, with its time."""
        began = perf_counter()
        try:
            yield
        except ServiceError:
            self._statistics.failed(model.name, perf_counter() - began)
            raise

    def count(self, model: HostedModel, code: int) -> None:
        """Count an inference request by its status."""
        self._telemetry.requests.labels(model.name, str(code)).inc()

    async def _in_turn(self, model: HostedModel, request: DecodedRequest) -> tuple[InferResponse, float]:
        """Return the answer of the request's stream, created if needed, and the worker's time in seconds."""
        asked = request.request
        identity = RequestIdentity(asked.id or uuid.uuid4().hex, asked.key, asked.digest)
        answered = None
        with TRACER.start_as_current_span("stream turn") as span:
            while answered is None:  # the stream ended while the request waited: start a new one
                answered = await self._turn(model, request, identity)
            span.set_attributes({f"acclimate.{name}": answered[0].parameters[f"tta_{name}"] for name in TRACED})
        return answered

    async def _turn(
        self, model: HostedModel, request: DecodedRequest, identity: RequestIdentity
    ) -> tuple[InferResponse, float] | None:
        """Answer in the stream's turn, or with the kept answer of an ended stream; None if it ends while waiting."""
        sequence = request.sequence
        chosen = sequence.stream_id or default_id(model)
        check_id(chosen)
        self._residence.check_served(chosen)
        stream = await self._residence.find(chosen)
        if stream is None and identity.digest and not _starts_new_stream(sequence, identity):
            before = await self._keeper.answer_of_ended(chosen, identity, sharded=self._settings.sharded)
            if before is not None and before.model == model.name:
                return before, 0.0
            stream = self._table.find(chosen)  # another request may have created it during the await
        stream = stream or self._created(model, chosen, named=bool(sequence.stream_id))
        if stream.model is not model:
            raise ConflictError(f"stream {chosen!r} belongs to model {stream.model.name!r}, not {model.name!r}")
        return await self._submit(stream, request, identity)

    async def _submit(
        self, stream: Stream, request: DecodedRequest, identity: RequestIdentity
    ) -> tuple[InferResponse, float] | None:
        """Answer in the stream's turn; None if the stream ends while the request waits."""
        self._check_pace(stream)
        shared = Shared(stream, request.x, self._workshop)
        answered = await self._scheduler.submit_steps(
            stream, lambda: self._answer(shared, request, identity), shared, request.by
        )
        self._prober.note(stream)
        self._keeper.note(stream)
        if stream.current.window_full:
            task = asyncio.ensure_future(self._scheduler.submit_steps(stream, lambda: self._adapt_full_window(stream)))
            task.add_done_callback(_log_failure)
        return answered

    def _check_pace(self, stream: Stream) -> None:
        seconds = self._pace.take(stream.id) if self._settings.rate_per_stream else 0.0
        if seconds:
            allowed = f"{self._settings.rate_per_stream:g} requests a second"
            raise BusyError(f"stream {stream.id!r} gets more than {allowed}, as many as are allowed", seconds)

    def _created(self, model: HostedModel, stream_id: str, *, named: bool) -> Stream:
        """Create a stream with the model's defaults; `named` is False for the shared stream of unnamed requests."""
        self._scheduler.admission.check_open()
        if named and not self._settings.create_streams:
            raise UnknownError(f"there is no stream {stream_id!r}, and this server creates none by inference")
        mode: Mode = "frozen" if stream_id == default_id(model) else "adapt"
        config = Config(model, model.default, mode=mode, durability=self._settings.durability)
        stream = self._table.create(stream_id, config)
        self._residence.note(stream)
        self._recorder.log(stream, Happening("created", "by its first request"))
        self._residence.hold(stream)
        return stream

    def _answer(
        self, shared: Shared, request: DecodedRequest, identity: RequestIdentity
    ) -> Steps[tuple[InferResponse, float] | None]:
        """Serve one request, on the worker in the stream's turn; None if the stream has ended."""
        stream, sequence, requested = shared.stream, request.sequence, request.outputs
        if self._table.find(stream.id) is not stream:
            return None
        value = stream.current
        answered = value.retries.find(identity, held=value.config.idempotent) if identity.digest else None
        if answered is not None:
            return answered, 0.0
        began = perf_counter()
        if sequence.start and (value.generation or len(value.state.window)):
            value = engine.reset(value)
        served = engine.serve(
            value,
            request.x,
            wants_source="source_probabilities" in requested,
            source_check_every=self._settings.source_check_every,
            step=shared.step,
        )
        seconds = perf_counter() - began + shared.seconds
        response = response_of(stream, served, identity.id, requested, named=bool(sequence.stream_id))
        # Without an id or a key, a request cannot be recognised as a retry.
        kept = [Answered(identity, response)] if identity.digest else []
        value = replace(served.value, retries=reduce(RetryLog.with_answer, kept, served.value.retries))
        if sequence.end:
            yield from self._end(stream, served.value, *kept)
        else:
            yield from self._keeper.append(stream, value)
        stream.current = value
        self._recorder.record(stream, identity.id, request.x, served, seconds)
        if served.waited is not None:
            self._count_window(stream, served.waited)
        stream.touch()
        return response, seconds

    def _adapt_full_window(self, stream: Stream) -> Steps[None]:
        if stream.current.window_full and stream.current.config.mode != "frozen":
            value, decision = engine.adapt_window(stream.current)
            yield from self._keeper.append(stream, value)
            stream.current = value
            if decision is not None:
                self._count_window(stream, decision)

    def _count_window(self, stream: Stream, decision: Decision) -> None:
        """Count a step on the window. A step that is thrown away is logged, since no answer reports it."""
        value = stream.current
        self._telemetry.window_steps.labels(stream.model.name, value.config.fitted.spec, decision.action.value).inc()
        if decision.action is Action.SKIPPED:
            log.warning("window_step_skipped", stream=stream.id, generation=value.generation, reason=decision.reason)


def _starts_new_stream(sequence: Sequence, identity: RequestIdentity) -> bool:
    """Return whether a request starts a new stream although an ended stream may have answered its like.

    Clients number the requests of each sequence from 1, so ids repeat. A sequence of one request is not continued.
    """
    return sequence.start and not sequence.end and not identity.key


def response_of(
    stream: Stream, served: Served, request_id: str, requested: tuple[str, ...], *, named: bool
) -> InferResponse:
    """Return the answer to a request: the requested outputs, and facts about them as parameters.

    Args:
        stream: The stream.
        served: The engine's result.
        request_id: The request's id.
        requested: Names of the requested outputs.
        named: True if the request named its stream.
    """
    return InferResponse(
        model=stream.model.name,
        version=stream.model.bundle.toml.version,
        id=request_id,
        parameters=_facts(stream, served, named=named),
        outputs=_outputs(served, requested),
    )


def _outputs(served: Served, requested: tuple[str, ...]) -> dict[str, Array]:
    probabilities = served.output.probabilities
    tensors = {
        "logits": served.output.logits,
        "probabilities": probabilities,
        "source_probabilities": served.source,
    }
    chosen = {name: tensor for name, tensor in tensors.items() if name in requested and tensor is not None}
    arrays = {name: tensor.float().numpy() for name, tensor in chosen.items()}  # networks may compute in float64
    if "labels" in requested:
        arrays["labels"] = labels(probabilities)
    return {name: np.ascontiguousarray(arrays[name]) for name in requested if name in arrays}


def _facts(stream: Stream, served: Served, *, named: bool) -> dict[str, Parameter]:
    """Return the flat facts about an answer."""
    value, config = served.value, served.value.config
    signals = {f"tta_{name}": number for name, number in served.signals.items()}
    if "tta_source_age" in signals:
        signals["tta_source_age"] = int(signals["tta_source_age"])
    facts: dict[str, Parameter] = {
        "tta_generation": value.generation,
        "tta_answered_generation": served.answered_generation,
        "tta_durable_generation": stream.promised_generation(value),
        "tta_steps": value.steps,
        "tta_adapter": config.fitted.spec,
        "tta_backend": config.fitted.backend,
        "tta_mode": config.mode,
        "tta_action": served.action.value,
        **signals,
    }
    texts = {"tta_choice": value.explanation, "tta_warning": _warning(stream, served, named=named)}
    return facts | {name: text for name, text in texts.items() if text}


def _warning(stream: Stream, served: Served, *, named: bool) -> str:
    """Return all warnings about an answer, joined; "" if there are none."""
    shared = f"no sequence_id was given: answered by the shared stream {stream.id!r}; name a stream to adapt one"
    decided = f"{served.decision.reason}: {DONE[served.action]}" if served.decision.reason else ""
    said = ("" if named else shared, decided, served.value.config.fitted.degraded, _not_finite(served))
    return "; ".join(text for text in said if text)


def _not_finite(served: Served) -> str:
    """Return a warning that names the rows that are not finite; "" if all are finite."""
    if is_finite(served.output.probabilities):
        return ""
    rows = np.flatnonzero(labels(served.output.probabilities) == NONE).tolist()
    named = ", ".join(map(str, rows[:NAMED_ROWS]))
    if len(rows) == 1:
        return f"row {named} of the answer is not finite: its label is {NONE} and its probabilities are NaN"
    more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
    return f"rows {named}{more} of the answer are not finite: their label is {NONE} and their probabilities are NaN"


def _log_failure(task: "asyncio.Future[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("window_step_failed", exc_info=task.exception())
