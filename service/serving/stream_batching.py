"""Takes the steps of several streams' requests as one batched step where that is faster."""

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
from service.models.kernels.native.background import Workshop
from service.streams.stream import Stream
from service.support.containment import contained
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry

Kind: TypeAlias = tuple[int, torch.Size]
"""The fitted pipeline, by identity, and the images' shape. Steps of one kind can be taken as one."""
Measure: TypeAlias = Callable[[Fitted, Sequence[Tensor]], Gain]
MOST_IMAGES = 64
"""Most images in a group. It bounds the added wait, and a forward over more images is no faster per image."""
MOST_OF_A_REQUEST = 8
"""Most images of a request that joins a group. A larger request fills a forward by itself."""


class Shared:
    """A request's step: the stream's own, unless it was taken together with other streams' steps.

    `seconds` is this request's share of the time for such a step. With a workshop, its fastest step is used.
    """

    def __init__(self, stream: Stream, x: Tensor, workshop: Workshop | None = None) -> None:
        self.stream = stream
        self.x = x
        self._workshop = workshop
        self.seconds = 0.0
        self._stepped: tuple[AdapterState, Stepped] | None = None

    def put(self, state: AdapterState, stepped: Stepped, seconds: float) -> None:
        """Store the result of a batched step from `state`."""
        self._stepped = (state, stepped)
        self.seconds = seconds

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x and learn from it. Return the stored result if it is for this state and input."""
        if self._stepped is not None and self._stepped[0] is state and x is self.x:
            return self._stepped[1]
        if self._workshop is not None:
            stream = self.stream
            config = stream.current.config
            return self._workshop.step(config.model, config.fitted, state, x, exact=config.durability == "sync")
        return self.stream.current.config.fitted.step(state, x)


class Groups:
    """Decides which requests can share a step, and takes their steps.

    Args:
        most: Most streams in a group; 1 for no groups.
        telemetry: Counts the groups.
        measure: Measures whether batched steps of a pipeline are faster; called once for each number of images.
    """

    def __init__(self, most: int, telemetry: Telemetry, measure: Measure = measured) -> None:
        self._most = most
        self._sizes = telemetry.group_streams
        self._measure = measure

    def kind(self, shared: Shared) -> Kind | None:
        """Return the kind of steps that a request can share, or None. Call it in the stream's turn.

        Only the plain case shares: the request is a learning step from the present state, and need not be repeatable
        bit for bit.
        """
        state, config, images = shared.stream.current.state, shared.stream.current.config, len(shared.x)
        plain = (
            config.mode == "adapt"
            and config.durability != "sync"
            and config.adapt_batch_size == 1
            and not len(state.window)
            and not int(state.monitors.pause)
        )
        if self._most < 2 or images > MOST_OF_A_REQUEST or not plain or config.fitted.not_grouped:
            return None
        self._sizes.labels(config.model.name, config.fitted.spec)  # creates the metric, at 0
        gain = config.fitted.gains.get(images)
        return None if gain is not None and not gain.least else (id(config.fitted), shared.x.shape)

    def room(self, shared: Shared) -> int:
        """Return how many other requests fit in a request's group."""
        return min(self._most, MOST_IMAGES // max(len(shared.x), 1)) - 1

    def take(self, requests: Sequence[Shared]) -> None:
        """Take the steps of requests of one kind as one if that is faster, on the worker in the streams' turns.

        If the batched step fails, or an answer is not finite, the streams' own steps are used.
        """
        config = requests[0].stream.current.config
        fitted, model = config.fitted, config.model
        images = len(requests[0].x)
        if images not in fitted.gains:
            gain = self._measure(fitted, torch.split(model.sample(images * max(SIZES)), images))
            facts = {"images": images, "least": gain.least, "times": round(gain.times, 2), "reason": gain.reason}
            log.info("grouping_measured", model=model.name, adapter=fitted.spec, **facts)
            fitted.gains[images] = gain
        least = fitted.gains[images].least
        if not least or len(requests) < least:
            return
        states = [request.stream.current.state.adapter for request in requests]
        began = perf_counter()
        try:
            stepped_all = contained(lambda: fitted.step_together(states, [request.x for request in requests]))
        except Exception as error:  # noqa: BLE001 - a model's own code; each stream's own step reports its error
            log.warning("group_failed", model=model.name, adapter=fitted.spec, reason=type(error).__name__)
            return
        self._sizes.labels(model.name, fitted.spec).observe(len(requests))
        seconds = (perf_counter() - began) / len(requests)
        for request, state, stepped in zip(requests, states, stepped_all, strict=True):
            if _finite(stepped[0]):
                request.put(state, stepped, seconds)


def _finite(output: StepOutput) -> bool:
    return bool(torch.isfinite(output.logits).all() and torch.isfinite(output.probabilities).all())
