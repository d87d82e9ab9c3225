"""Takes the steps of several streams' requests as one batched step where that is faster."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeAlias

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.values import StepOutput
from service.models.hosted import Fitted
from service.models.kernels.kernel import JointSteps, KernelStatus
from service.models.kernels.native.background import Workshop
from service.models.kernels.verify import judge
from service.streams.stream import Stream
from service.support.containment import contained
from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry

Kind: TypeAlias = tuple[int, torch.Size]
"""The fitted pipeline, by identity, and the images' shape. Steps of one kind can be taken as one."""
Judge: TypeAlias = Callable[[JointSteps, Fitted, Sequence[Tensor]], KernelStatus]
SIZES = (2, 4, 8, 16)
"""Numbers of streams in the groups that are timed."""
COMPARED = 2
"""Streams, and steps of each, on which a joint step is compared with single steps."""
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


def judge_joint(joint: JointSteps, fitted: Fitted, xs: Sequence[Tensor]) -> KernelStatus:
    """Compare a joint step with single steps on synthetic batches xs, as many as the largest of `SIZES`; time both."""
    return judge(joint, fitted, [fitted.initial()] * COMPARED, [xs[:COMPARED]] * COMPARED, xs, SIZES)


class Groups:
    """Decides which requests can share a step, and takes their steps.

    Args:
        most: Most streams in a group; 1 for no groups.
        telemetry: Counts the groups.
        judge: Verifies and times the joint step of a pipeline; called once for each number of images.
    """

    def __init__(self, most: int, telemetry: Telemetry, judge: Judge = judge_joint) -> None:
        self._most = most
        self._sizes = telemetry.group_streams
        self._judge = judge

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
        if self._most < 2 or images > MOST_OF_A_REQUEST or not plain or config.fitted.kernels.joint is None:
            return None
        self._sizes.labels(config.model.name, config.fitted.spec)  # creates the metric, at 0
        status = config.fitted.kernels.joined.get(images)
        return None if status is not None and status.reason else (id(config.fitted), shared.x.shape)

    def room(self, shared: Shared) -> int:
        """Return how many other requests fit in a request's group."""
        return min(self._most, MOST_IMAGES // max(len(shared.x), 1)) - 1

    def take(self, requests: Sequence[Shared]) -> None:
        """Take the steps of requests of one kind as one if that is faster, on the worker in the streams' turns.

        If the batched step fails, or an answer is not finite, the streams' own steps are used.
        """
        config = requests[0].stream.current.config
        fitted, model = config.fitted, config.model
        images, kernels = len(requests[0].x), fitted.kernels
        if images not in kernels.joined and kernels.joint is not None:
            xs = torch.split(model.sample(images * max(SIZES)), images)
            status = kernels.joined[images] = self._judge(kernels.joint, fitted, xs)
            facts = {"images": images, "least": status.least, "times": round(status.times, 2), "reason": status.reason}
            log.info("grouping_measured", model=model.name, adapter=fitted.spec, **facts)
        kernel = kernels.joined[images].serving(len(requests))
        if kernel is None:
            return
        states = [request.stream.current.state.adapter for request in requests]
        began = perf_counter()
        try:
            stepped_all = contained(lambda: kernel.steps(states, [request.x for request in requests]))
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
