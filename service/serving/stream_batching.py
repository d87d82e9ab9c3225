"""Requests of different streams whose steps are taken as one, where that pays."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeAlias

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.values import StepOutput
from service.models.batching_speedup import SIZES, Gain, measured
from service.models.hosted import Fitted
from service.models.native.background import Workshop
from service.streams.stream import Stream
from service.support.containment import contained
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry

Kind: TypeAlias = tuple[int, torch.Size]
"""The pipeline's fit, by identity, and the shape of the images: steps of one kind can be taken as one."""
Measure: TypeAlias = Callable[[Fitted, Sequence[Tensor]], Gain]
MOST_IMAGES = 64
"""Of one group, which bounds what a request waits longer: a forward over more images gains nothing either."""
MOST_OF_A_REQUEST = 8
"""Images; a request of more fills a forward by itself."""


class Shared:
    """A request's step: the stream's own, unless it was taken together with other streams' before.

    `seconds` are this request's part of the time that took. Where there is a workshop, it knows the fastest step.
    """

    def __init__(self, stream: Stream, x: Tensor, workshop: Workshop | None = None) -> None:
        self.stream = stream
        self.x = x
        self._workshop = workshop
        self.seconds = 0.0
        self._taken: tuple[AdapterState, Stepped] | None = None

    def put(self, state: AdapterState, stepped: Stepped, seconds: float) -> None:
        """Keep what a step taken with others has come to, from a state."""
        self._taken = (state, stepped)
        self.seconds = seconds

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x and learn from it, by the step that was taken if it was this one."""
        if self._taken is not None and self._taken[0] is state and x is self.x:
            return self._taken[1]
        if self._workshop is not None:
            stream = self.stream
            return self._workshop.step(stream.model, stream.fitted, state, x, exact=stream.durability == "sync")
        return self.stream.fitted.step(state, x)


class Groups:
    """Says which requests may go together, and takes their steps.

    Args:
        most: Streams in a group; 1 for none.
        telemetry: Where groups are counted.
        measure: What tells whether a pipeline's steps pay as one, asked once for each number of images.
    """

    def __init__(self, most: int, telemetry: Telemetry, measure: Measure = measured) -> None:
        self._most = most
        self._sizes = telemetry.group_streams
        self._measure = measure

    def kind(self, shared: Shared) -> Kind | None:
        """Return what a request can share its step with; None for nothing. In its stream's turn.

        Only the plain case shares: the request is a learning step from the state as it is, and need not be repeated
        bit for bit.
        """
        stream, images = shared.stream, len(shared.x)
        plain = (
            stream.mode == "adapt"
            and stream.durability != "sync"
            and stream.adapt_batch_size == 1
            and not len(stream.state.window)
            and not int(stream.state.monitors.pause)
        )
        if self._most < 2 or images > MOST_OF_A_REQUEST or not plain or stream.fitted.not_grouped:
            return None
        self._sizes.labels(stream.model.name, stream.fitted.spec)  # counted from its first request on, at 0
        known = stream.fitted.gains.get(images)
        return None if known is not None and not known.least else (id(stream.fitted), shared.x.shape)

    def room(self, shared: Shared) -> int:
        """Return how many others a request's group takes."""
        return min(self._most, MOST_IMAGES // max(len(shared.x), 1)) - 1

    def take(self, requests: Sequence[Shared]) -> None:
        """Take the steps of requests of one kind as one if that pays; on the worker, in the streams' turns.

        One that this fails for, or whose answer is not finite, is left to its stream's own step.
        """
        fitted, model = requests[0].stream.fitted, requests[0].stream.model
        images = len(requests[0].x)
        if images not in fitted.gains:
            gain = self._measure(fitted, torch.split(model.sample(images * max(SIZES)), images))
            facts = {"images": images, "least": gain.least, "times": round(gain.times, 2), "reason": gain.reason}
            log.info("grouping_measured", model=model.name, adapter=fitted.spec, **facts)
            fitted.gains[images] = gain
        least = fitted.gains[images].least
        if not least or len(requests) < least:
            return
        states = [request.stream.state.adapter for request in requests]
        began = perf_counter()
        try:
            taken = contained(lambda: fitted.step_together(states, [request.x for request in requests]))
        except Exception as error:  # noqa: BLE001 - a model's own code; each stream's step tells whose fault it is
            log.warning("group_failed", model=model.name, adapter=fitted.spec, reason=type(error).__name__)
            return
        self._sizes.labels(model.name, fitted.spec).observe(len(requests))
        seconds = (perf_counter() - began) / len(requests)
        for request, state, stepped in zip(requests, states, taken, strict=True):
            if _finite(stepped[0]):
                request.put(state, stepped, seconds)


def _finite(output: StepOutput) -> bool:
    return bool(torch.isfinite(output.logits).all() and torch.isfinite(output.probabilities).all())
