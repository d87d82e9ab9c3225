"""Decodes a request's encoded images before it queues: bounded in number, pixels and time, on separate threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from torch import Tensor

from service.errors import DeadlineError, SaturatedError
from service.serving.scheduler import Scheduler
from service.streams.stream import Stream
from service.support.thread_pool import Pool
from service.types import InferRequest, InputSpec, Limits
from service.wire.codec import decode_input, pixels_of

MOST_THREADS = 4


class Pixels:
    """Counts the pixels of images that are being decoded, or are decoded and wait for an answer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Add pixels. While none are counted, any number is accepted.

        Raises:
            SaturatedError: If together with other requests' pixels there are too many.
        """
        with self._lock:
            if self._held and self._held + count > self._most:
                said = f"{self._held} pixels of images are under way; with {count} more they exceed {self._most}"
                raise SaturatedError(said)
            self._held += count

    def give_back(self, count: int) -> None:
        """Subtract pixels."""
        with self._lock:
            self._held -= count


class Decoder:
    """Decodes the images of requests. Each request counts towards the queue's limits meanwhile."""

    def __init__(
        self, scheduler: Scheduler, limits: Limits, *, max_pixels: int, threads: int, deadline_seconds: float
    ) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._pixels = Pixels(max_pixels)
        self._pool = Pool("images", max(1, min(MOST_THREADS, threads // 2)))
        self._deadline_seconds = deadline_seconds

    @asynccontextmanager
    async def decoded(self, request: InferRequest, spec: InputSpec, stream: Stream | None) -> AsyncIterator[Tensor]:
        """Yield a request's images as the model's input; their pixels count until the block ends.

        Raises:
            SaturatedError: If too many requests wait, or too many pixels are under way.
            BusyError: If too many requests of this stream wait.
            DeadlineError: If the images are not decoded in time.
            UnfitError: If they do not fit the model's input.
            TooLargeError: If they exceed the limits of one request.
        """
        outputs = sum(len(tensor.data) for tensor in request.inputs) * spec.shape[1] * spec.shape[2]
        with self._held(outputs):
            try:
                with self._scheduler.admission.place(stream):
                    async with asyncio.timeout(self._deadline_seconds):
                        x = await self._pool.run(self._decode, request, spec)
            except TimeoutError:
                said = f"the images were not decoded within {self._deadline_seconds:g} s; nothing was changed"
                raise DeadlineError(said) from None
            yield x

    def close(self) -> None:
        """Drop the images that wait to be decoded."""
        self._pool.close()

    def _decode(self, request: InferRequest, spec: InputSpec) -> Tensor:
        """Decode the images, on one of the decoder's threads."""
        with self._held(pixels_of(request, spec, self._limits)):
            return decode_input(request, spec, self._limits)

    @contextmanager
    def _held(self, count: int) -> Iterator[None]:
        self._pixels.take(count)
        try:
            yield
        finally:
            self._pixels.give_back(count)
